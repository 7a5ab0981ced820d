"""Fully sharded training (FSDP2, ``torch.distributed.fsdp.fully_shard``): each process holds a share of weights, gradients and optimizer.

A layer's weights are gathered when it runs, and its gradients are added up and shared out again.  The optimizer works on this process's
shares, which are ordinary tensors.  Checkpoints hold whole tensors with the names and the order that one process uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from benchmark.multihead import MultiHeadAttention
from benchmark.running.parallel import ByExamples


class Sharded(ByExamples):
    """``fsdp``: each process computes some examples of every batch, and holds a share of every weight.

    Validation and tests use whole weights, because a task may call any method of its model, while FSDP gathers weights only in
    ``forward``.  Their gradients and the optimizer, three quarters of Adam's memory, stay shared out.
    """

    def __init__(self, loss: nn.Module, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(loss, model, accelerator)
        self._shared = list(model.parameters())  # sharded tensors; numbers are kept whole in every process
        # An optimizer in ``foreach`` form takes no mix of sharded and whole tensors, so it gets this process's shares.
        self.parameters = [
            nn.Parameter(_own(one), requires_grad=one.requires_grad) if isinstance(one, DTensor) else one
            for one in self._shared
        ]
        self.units = [module for module in loss.modules() if isinstance(module, FSDPModule)]

    def _prepared(self, loss: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.accelerator.device.type, (self.world,))
        numbers = {one for one in self.parameters if one.dim() == 0}  # fully_shard refuses tensors without dimensions
        ignored: dict[str, Any] = {"ignored_params": numbers} if numbers else {}
        for layer in reversed(list(_layers(self.model))):  # inner ones first
            fully_shard(layer, mesh=mesh, **ignored)
        fully_shard(loss, mesh=mesh, **ignored)  # changes the module's class and returns it
        return loss

    @contextmanager
    def micro_batch(self, batch: Any, share: Any, *, is_last: bool) -> Iterator[Any]:
        """Gives the micro-batch.  Gradients are added up over the processes only in the last one of a step."""
        for norm in self.norms:
            norm.weight_of_batch = share.weight
        self.loss.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        yield batch

    def add_up_gradients(self) -> float:
        """Hands the gradients to this process's shares."""
        for own, one in zip(self.parameters, self._shared, strict=True):
            if isinstance(one, DTensor):
                own.data = _own(one)  # FSDP may have moved it
                own.grad = None if one.grad is None else _own(one.grad)
                one.grad = None
            elif one.grad is not None:
                dist.all_reduce(one.grad)
                one.grad /= self.world
        return self.world  # FSDP has averaged them

    def clip(self, max_norm: float) -> None:
        """Scales the gradients such that the norm of all of them, over all processes, is at most ``max_norm``."""
        shares = [own.grad for own, one in zip(self.parameters, self._shared, strict=True) if isinstance(one, DTensor)]
        whole = [one.grad for one in self._shared if not isinstance(one, DTensor)]
        square = nn.utils.get_total_norm([grad for grad in shares if grad is not None]).square()
        dist.all_reduce(square)
        square = square + nn.utils.get_total_norm([grad for grad in whole if grad is not None]).square()
        nn.utils.clip_grads_with_norm_(self.parameters, max_norm, square.sqrt(), foreach=True)

    def weights(self) -> dict[str, Tensor]:
        """Returns a copy of all weights and buffers, on the CPU.  All processes must call it."""
        return {name: _whole(tensor) for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Puts whole weights and buffers into the model; each process takes its share."""
        for name, own in self.model.state_dict().items():
            own.copy_(_like(own, weights[name]))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Returns the optimizer's state with whole tensors.  All processes must call it."""
        state = optimizer.state_dict()
        whole = {}
        for index, (own, one) in enumerate(self._in_order(optimizer)):
            whole[index] = {
                name: _whole(_as_shared(value, one)) if _is_share(value, own, one) else value
                for name, value in state["state"].get(index, {}).items()
            }
        return {**state, "state": {index: values for index, values in whole.items() if values}}

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Puts a state with whole tensors into the optimizer; each process takes its share."""
        shares = {}
        for index, (_, one) in enumerate(self._in_order(optimizer)):
            shares[index] = {
                name: _own(_like(one, value)) if _has_shape_of(one, value) else value
                for name, value in state["state"].get(index, {}).items()
            }
        optimizer.load_state_dict({**state, "state": {index: values for index, values in shares.items() if values}})

    def _in_order(self, optimizer: torch.optim.Optimizer) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Returns (own share, sharded parameter) in the order in which the optimizer's state numbers them."""
        shared = {id(own): one for own, one in zip(self.parameters, self._shared, strict=True)}
        return [(own, shared[id(own)]) for group in optimizer.param_groups for own in group["params"]]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Gathers all weights in every process for the length of the block."""
        self.finish()
        try:
            yield
        finally:
            for unit in self.units:
                unit.set_reshard_after_forward(True)
                unit.reshard()

    def finish(self) -> None:
        """Gathers all weights in every process."""
        for unit in self.units:
            unit.set_reshard_after_forward(False)
            unit.unshard()


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the layers with attention, whose weights are gathered one layer at a time; the other weights are gathered at once.

    FSDP gathers in ``forward``, so a layer that is called by other methods only is left to the whole model.
    """
    for module in model.modules():
        for layer in module if isinstance(module, nn.ModuleList) else ():
            has_attention = any(isinstance(part, MultiHeadAttention) for part in layer.modules())
            if has_attention and type(layer).forward is not nn.Module.forward:
                yield layer


def _own(one: Tensor) -> Tensor:
    """Returns this process's share of a sharded tensor; both have the same memory."""
    assert isinstance(one, DTensor)
    return cast(DTensor, one.detach()).to_local()


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.detach()
    return (whole.full_tensor() if isinstance(whole, DTensor) else whole).cpu().clone()


def _like(one: Tensor, whole: Tensor) -> Any:
    """Returns a whole tensor, shared out over the processes as ``one`` is."""
    if not isinstance(one, DTensor):
        return whole
    return distribute_tensor(whole.to(one.device), one.device_mesh, one.placements)


def _has_shape_of(one: Tensor, value: Any) -> bool:
    return isinstance(one, DTensor) and isinstance(value, Tensor) and value.shape == one.shape


def _is_share(value: Any, own: Tensor, one: Tensor) -> bool:
    return isinstance(one, DTensor) and isinstance(value, Tensor) and value.shape == own.shape


def _as_shared(share: Tensor, one: Tensor) -> DTensor:
    assert isinstance(one, DTensor)
    return DTensor.from_local(share, one.device_mesh, one.placements, shape=one.shape, stride=one.stride())

"""Batch norms whose statistics are those of the whole batch or micro-batch, although each process has only some of its examples."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes.  The gradient of each summand is the sum of the gradients of all copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over the examples of all processes.  torch's SyncBatchNorm does the same, but only on GPUs."""

    weight_of_batch = 1  # 0 if this process's examples are another's too, and must not count twice
    group: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, c) or (b, c, n).  Returns the same shape."""
        if not self.training:
            return super().forward(x)
        dims = [0] if x.dim() == 2 else [0, 2]
        shape = [1, -1] if x.dim() == 2 else [1, -1, 1]
        values = x.float()
        own = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = self.sum(torch.cat((values.sum(dims), own)))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean.view(shape)
        variance = self.sum(centred.square().sum(dims)) / count
        self.keep(mean, variance, count)
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum over the processes."""
        return _Sum.apply(x * self.weight_of_batch, self.group)

    def keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running statistics towards those of this batch, as BatchNorm1d does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)


def shared_norms(model: nn.Module) -> list[Any]:
    """Makes the model's batch norms use the examples of all processes.  Returns them.

    Their messages have a group of their own, so that they don't mix with those of gradients.  A batch norm of another class takes
    part if it has the attribute ``sum_over_processes``, a function through which it passes its sums.
    """
    found: list[Any] = []
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedBatchNorm
            found.append(module)
        elif hasattr(module, "sum_over_processes"):
            found.append(module)
    group = dist.new_group() if found else None
    for module in found:
        module.group = group
        if not isinstance(module, SharedBatchNorm):
            module.sum_over_processes = _weighted_sum(module, group)
    return found


def _weighted_sum(norm: Any, group: Any) -> Any:
    def total(x: Tensor) -> Tensor:
        return _Sum.apply(x * norm.weight_of_batch, group)

    return total

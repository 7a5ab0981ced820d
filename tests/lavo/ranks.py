"""A process of test_parallel.py: runs attention and a whole model over its part of a sequence, and writes the results.

python ranks.py RANK WORLD_SIZE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from loop import example
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.multihead import MultiHeadAttention
from lavo.parallel import Part, parallel_lavo_attention, sequence_part, share_length, split_length
from tasks.cross_entropy import token_nats
from tasks.language_modeling.gpt import GPT

WINDOW = 8
# Lengths of the parts: whole windows; one rank; unequal; shorter than a window (a window over four ranks); empty ones.
SPLITS = [
    (64,),
    (32, 32),
    (13, 51),
    (8, 40, 16),
    (21, 30, 13),
    (16, 16, 16, 16),
    (5, 1, 2, 56),
    (30, 0, 3, 31),
    (0, 9, 55, 0),
]
OPTIONS = [
    {},
    {"output": "joint"},
    {"output": "memory"},
    {"dissect": False},
    {"axes": True},
    {"no_bias": True},
]


def inputs(length: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return example(batch=2, heads=3, n=length, d=16, rank=11, window=WINDOW, dtype=dtype, grad=True)


def arguments(tensors, options) -> tuple[list, dict]:
    """Positional and keyword arguments of lavo_attention, from the options of a case."""
    q, k, v, basis, bias = tensors
    keywords = {name: value for name, value in options.items() if name not in ("axes", "no_bias")}
    keywords |= {"window": WINDOW, "bias": None if "no_bias" in options else bias}
    return [q, k, v, None if "axes" in options else basis], keywords


def upstream(length: int) -> torch.Tensor:
    return torch.randn(2, 3, length, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def part_of(x: torch.Tensor, part: Part, dim: int) -> torch.Tensor:
    return x.narrow(dim, part.start, part.lengths[part.rank])


def attend(part: Part, options: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    length = sum(part.lengths)
    *sequence, basis, bias = inputs(length, dtype)
    own = [part_of(x, part, 2).detach().requires_grad_() for x in sequence]
    positional, keywords = arguments([*own, basis, bias], options)
    out = parallel_lavo_attention(*positional, part, **keywords)
    leaves = [*own, basis, bias]
    grads = torch.autograd.grad(out, leaves, part_of(upstream(length), part, 2).to(dtype), allow_unused=True)
    return {"out": out.detach()} | {
        name: torch.zeros_like(x) if g is None else g for name, x, g in zip("qkvBP", leaves, grads, strict=True)
    }


def model() -> GPT:
    def attention_for(pattern, *, embed_dim, num_heads, dropout, **_) -> nn.Module:
        return MultiHeadAttention(embed_dim, num_heads, "lavo", pattern=pattern, dropout=dropout, window=WINDOW)

    torch.manual_seed(0)
    return GPT(attention_for, vocab_size=50, embed_dim=16, num_layers=2, num_heads=2, context_length=64)


def text(length: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, length + 1), generator=torch.Generator().manual_seed(3))


def train_step(part: Part | None, length: int) -> dict[str, torch.Tensor]:
    """Loss and gradients, summed over the processes of the part where there is one."""
    gpt, tokens = model(), text(length)
    if part is None:
        loss = token_nats(gpt(tokens[:, :-1]), tokens[:, 1:]).sum()
        loss.backward()
        return {"loss": loss.detach()} | {name: p.grad for name, p in gpt.named_parameters() if p.grad is not None}
    with sequence_part(gpt, part):
        logits = gpt(part_of(tokens[:, :-1], part, 1))
        loss = token_nats(logits, part_of(tokens[:, 1:], part, 1)).sum()
        loss.backward()
    found = {"loss": loss.detach()} | {name: p.grad for name, p in gpt.named_parameters() if p.grad is not None}
    for x in found.values():
        dist.all_reduce(x, group=part.group)
    return found


class CountBytes(TorchDispatchMode):
    """Bytes of the tensors that this process hands to collectives, as the dispatcher sees them."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            assert "allgather" in func.name(), func.name()
            self.total += sum(x.nbytes for x in args[1])
        return func(*args, **(kwargs or {}))


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    groups = {size: dist.new_group(list(range(size))) for size in range(1, world_size + 1)}
    found: dict[str, dict] = {}
    for lengths in SPLITS:
        if rank < len(lengths):
            part = share_length(lengths[rank], groups[len(lengths)])
            assert part.lengths == lengths
            for number, options in enumerate(OPTIONS):
                found[f"{lengths} {number}"] = attend(part, options)
            found[f"{lengths} model"] = train_step(part, sum(lengths))
    for cut in ("windows", "anywhere"):
        for length in (64, 640, 6400):
            parts = split_length(length, world_size, WINDOW)
            if cut == "anywhere":
                parts = (parts[0] + 3, *parts[1:-1], parts[-1] - 3)
            part = Part(parts, rank, groups[world_size])
            with CountBytes() as counted:
                attend(part, {})
            found[f"bytes {cut} {length}"] = {
                "said": torch.tensor(part.bytes_sent),
                "seen": torch.tensor(counted.total * (world_size - 1)),
            }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

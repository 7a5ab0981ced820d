"""One sequence over 1 to 4 processes: outputs, gradients and a model's loss are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch

from lavo import LAVOAttention, lavo_attention
from lavo.parallel import Part, loans, parallel_lavo_attention, sequence_part, split_length

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of each of 4 processes."""
    folder = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)]),
    }
    started = [
        subprocess.Popen([sys.executable, ranks.__file__, str(rank), "4", str(folder)], env=environment, cwd=root)
        for rank in range(4)
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0] * 4
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ranks.OPTIONS)))
@pytest.mark.parametrize("lengths", ranks.SPLITS, ids=str)
def test_parts_together_are_the_whole(found, lengths, number):
    length = sum(lengths)
    tensors = ranks.inputs(length, torch.float64)
    positional, keywords = ranks.arguments(tensors, ranks.OPTIONS[number])
    out = lavo_attention(*positional, causal=True, **keywords)
    grads = torch.autograd.grad(out, tensors, ranks.upstream(length), allow_unused=True)
    want = {"out": out} | {
        name: torch.zeros_like(x) if g is None else g for name, x, g in zip("qkvBP", tensors, grads, strict=True)
    }
    results = [found[rank][f"{lengths} {number}"] for rank in range(len(lengths))]
    for name, right in want.items():
        parts = [result[name] for result in results]
        got = sum(parts) if name in "BP" else torch.cat(parts, 2)
        scale = max(1.0, right.abs().max().item())  # gradients of basis and bias are sums over all tokens
        torch.testing.assert_close(
            got.double(), right, atol=TOLERANCE * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("lengths", ranks.SPLITS, ids=str)
def test_a_model_has_the_loss_and_gradients_of_one_process(found, lengths):
    want = ranks.train_step(None, sum(lengths))
    got = found[0][f"{lengths} model"]
    assert want.keys() == got.keys()
    for name, right in want.items():
        scale = max(1.0, right.abs().max().item())
        torch.testing.assert_close(
            got[name], right, atol=TOLERANCE * scale, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["windows", "anywhere"])
def test_bytes_sent_do_not_grow_with_the_sequence(found, cut):
    counts = [
        {name: int(x) for name, x in found[rank][f"bytes {cut} {n}"].items()}
        for rank in range(4)
        for n in (64, 640, 6400)
    ]
    assert len({count["said"] for count in counts}) == 1
    assert all(count["said"] == count["seen"] for count in counts)
    memory = 2 * 3 * 2 * 3 * 11 * 8  # forward and backward; 3 receivers; batch, heads and rank of float64
    window = 2 * 3 * 2 * 2 * 3 * 3 * 16 * 4  # of k and v the 3 tokens that stand over, float32
    assert counts[0]["said"] == memory + (window if cut == "anywhere" else 0)


def test_parts_are_whole_windows_as_equal_as_can_be():
    assert split_length(64, 4, 8) == (16, 16, 16, 16)
    assert split_length(70, 4, 8) == (24, 16, 16, 14)
    assert split_length(9, 4, 8) == (8, 1, 0, 0)
    for length in range(200):
        parts = split_length(length, 3, 16)
        assert sum(parts) == length
        assert not any(Part(parts, r).start % 16 for r in range(3) if parts[r])


def test_a_window_over_several_parts_is_lent_by_all_of_them():
    assert loans(Part((5, 1, 2, 56), 3), 16, 3) == [(0, 5), (1, 1), (2, 2)]
    assert loans(Part((21, 30, 13), 2), 8, 2) == [(1, 3)]
    assert loans(Part((16, 16), 1), 8, 1) == []


def test_other_patterns_and_lengths_are_refused_in_parts():
    q, k, v, basis, _ = ranks.inputs(9)
    with pytest.raises(ValueError, match=r"8 tokens of \(8,\), q has 9"):
        parallel_lavo_attention(q, k, v, basis, Part((8,), 0), window=8)
    with pytest.raises(ValueError, match="rank"):
        Part((8, 8), 2)
    layer = LAVOAttention(pattern="noncausal_self", num_heads=3, head_dim=16)
    with sequence_part(layer, Part((9,), 0)), pytest.raises(ValueError, match="causal_self"):
        layer(q, k, v)
    assert layer(q, k, v).shape == q.shape
    with pytest.raises(ValueError, match="no LAVOAttention"), sequence_part(torch.nn.Linear(2, 2), Part((9,), 0)):
        pass

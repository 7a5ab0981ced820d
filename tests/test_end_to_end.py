"""The modes of the sweep that measure a whole model: what the counters say, compared with formulas."""

import pytest

from benchmark.measuring.shape import Shape
from benchmark.measuring.sweep import Grid, Limits, measure
from benchmark.measuring.whole_model import NUM_LAYERS
from benchmark.report.speed import read_sweeps, throughput_table

HEADS, HEAD_DIM, LENGTH, VOCABULARY = 2, 16, 48, 257
WIDTH = HEADS * HEAD_DIM
PRODUCTS = 2 * 12 * WIDTH**2  # of a token in a block: four projections, and a feed-forward of four times the width


def points(modes, attention="softmax", *, pattern="causal_self", length=LENGTH, batch=1, directory=None):
    shape = Shape(batch=batch, num_heads=HEADS, head_dim=HEAD_DIM)
    return measure(Grid([attention], [pattern], [length], modes), shape, Limits(rounds=5), directory=directory)


def test_a_training_step_counts_as_its_formula():
    (row,) = points(["training"], batch=3)
    scores = 4 * LENGTH * WIDTH
    forward = 3 * LENGTH * (NUM_LAYERS * (PRODUCTS + scores) + 2 * WIDTH * VOCABULARY)
    assert row.status == "completed"
    assert row.kernel == "matmul"
    assert row.flops == 3 * forward  # the backward pass takes two products for each of the forward pass


def test_checkpointing_computes_the_blocks_once_more_and_holds_less():
    plain, checkpointed = points(["training", "checkpointed"])
    needed = PRODUCTS - 8 * WIDTH**2  # no gradient needs the result of the feed-forward's last product
    assert checkpointed.flops - plain.flops == LENGTH * NUM_LAYERS * (needed + 4 * LENGTH * WIDTH)
    assert checkpointed.peak_bytes < plain.peak_bytes
    assert checkpointed.base_bytes == plain.base_bytes


def test_a_generated_token_reads_what_was_before():
    (row,) = points(["generation"])
    seen = row.flops - NUM_LAYERS * PRODUCTS - 2 * WIDTH * VOCABULARY
    assert seen % (NUM_LAYERS * 4 * WIDTH) == 0
    assert LENGTH < seen // (NUM_LAYERS * 4 * WIDTH) <= LENGTH + LENGTH // 8 + 1


@pytest.mark.parametrize("attention", ["lavo", "performer", "cosformer"])
def test_a_token_of_a_linear_attention_costs_the_same_at_any_length(attention):
    found = [points(["generation"], attention, length=length)[0] for length in (192, 1152)]
    assert found[0].flops == found[1].flops
    assert found[0].base_bytes == found[1].base_bytes


def test_a_whole_model_has_one_pattern():
    (row,) = points(["training"], pattern="noncausal_self", length=16)
    assert row.status == "unsupported"
    assert "only causal_self" in row.reason


def test_the_report_gives_tokens_per_second(tmp_path):
    rows = points(["training", "generation"], batch=2, directory=tmp_path)
    for row, sweep, tokens in zip(rows, read_sweeps([tmp_path]), (2 * LENGTH, 2), strict=True):
        (value,) = throughput_table(sweep).values
        assert value["tokens_per_second"] == pytest.approx(tokens / row.seconds, rel=1e-4)

"""Cross-entropy in pieces against the whole."""

import math

import pytest
import torch
import torch.nn.functional as F

from tasks.cross_entropy import PADDED, projected_nats, token_nats


@pytest.mark.parametrize("at_once", [20 * 7, 1])
def test_the_loss_in_pieces_is_the_loss_of_the_whole(at_once):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 11, 20, generator=generator, requires_grad=True)
    targets = torch.randint(20, (3, 11), generator=generator)
    targets[1, 6:] = PADDED
    nats = token_nats(logits, targets, at_once=at_once)
    (gradient,) = torch.autograd.grad((nats * nats).sum(), logits)
    expected = F.cross_entropy(logits.mT, targets, reduction="none", ignore_index=PADDED)
    (expected_gradient,) = torch.autograd.grad((expected * expected).sum(), logits)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert (nats[1, 6:] == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    nats = token_nats(torch.zeros(1, 4, 20, dtype=torch.bfloat16), torch.zeros(1, 4, dtype=torch.int64))
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, torch.full((1, 4), math.log(20)))


@pytest.mark.parametrize("at_once", [20 * 7, 1])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_pieces_and_projections_change_no_bit(at_once, label_smoothing):
    """One piece and several give equal bits, gradients included; so do logits that exist piece by piece only."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 11, 20, generator=generator, requires_grad=True)
    targets = torch.randint(20, (3, 11), generator=generator)
    targets[1, 6:] = PADDED
    whole = token_nats(x, targets, label_smoothing=label_smoothing)
    (wanted,) = torch.autograd.grad(whole.sum(), x)
    for found in (
        token_nats(x, targets, label_smoothing=label_smoothing, at_once=at_once),
        projected_nats(
            lambda rows: 1.0 * rows, x, targets, vocab_size=20, label_smoothing=label_smoothing, at_once=at_once
        ),
    ):
        assert torch.equal(found, whole)
        assert torch.equal(torch.autograd.grad(found.sum(), x)[0], wanted)

"""The aligner against sums and maxima over all alignments, one by one."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from tasks.text_to_speech.aligner import BLANK, best_durations, forward_sum, log_prior


def all_durations(num_symbols, num_frames):
    """Every way to give each symbol at least one frame."""
    for cuts in itertools.combinations(range(1, num_frames), num_symbols - 1):
        yield np.diff([0, *cuts, num_frames])


def path_score(scores, durations):
    return sum(float(scores[t, s]) for t, s in enumerate(np.repeat(np.arange(len(durations)), durations)))


SIZES = [(3, 7), (1, 4), (4, 4), (2, 6)]


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    padded = torch.full((len(SIZES), 9, 5), -1e4)
    for row, (m, n) in enumerate(SIZES):
        padded[row, :n, :m] = torch.randn(n, m, generator=generator).log_softmax(1)
    return padded, torch.tensor([m for m, _ in SIZES]), torch.tensor([n for _, n in SIZES])


def test_the_best_alignment_is_the_best_of_all(scores):
    padded, num_symbols, num_frames = scores
    found = best_durations(padded, num_symbols, num_frames)
    assert torch.equal(found.sum(1), num_frames)
    for row, (m, n) in enumerate(SIZES):
        best = max(all_durations(m, n), key=lambda d, row=row: path_score(padded[row], d))
        assert found[row, :m].tolist() == best.tolist()
        assert found[row, m:].tolist() == [0] * (5 - m)


def test_the_forward_sum_is_the_sum_over_all(scores):
    padded, num_symbols, num_frames = scores
    found = forward_sum(padded, num_symbols, num_frames)
    for row, (m, n) in enumerate(SIZES):
        with_blank = torch.nn.functional.pad(padded[row], (1, 0), value=BLANK).log_softmax(1)
        # CTC lets blanks stand between symbols as well, so that they are counted here too.
        total = []
        for choice in itertools.product(range(m + 1), repeat=n):
            collapsed = [s for i, s in enumerate(choice) if s and (i == 0 or choice[i - 1] != s)]
            if collapsed == list(range(1, m + 1)):
                total.append(sum(float(with_blank[t, s]) for t, s in enumerate(choice)))
        wanted = -torch.logsumexp(torch.tensor(total, dtype=torch.float64), 0) / m
        assert float(found[row]) == pytest.approx(float(wanted), rel=1e-4)


def test_the_prior_is_scipy_s():
    prior = log_prior(torch.tensor([5, 3]), torch.tensor([9, 4]), 5, 9)
    for row, (m, n) in enumerate([(5, 9), (3, 4)]):
        for t in range(1, n + 1):
            wanted = betabinom(m - 1, t, n + 1 - t).logpmf(np.arange(m))
            np.testing.assert_allclose(prior[row, t - 1, :m], wanted, rtol=1e-4, atol=1e-5)

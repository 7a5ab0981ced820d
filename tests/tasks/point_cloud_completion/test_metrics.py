"""Chamfer distances and F-score compared with closed forms and with SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from tasks.point_cloud_completion.metrics import chamfer_l1, chamfer_l2, f_score


def cloud(*shape, seed=0):
    """Clouds (*shape, 3) in the unit cube."""
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))


def by_tree(predicted, target, threshold):
    """Chamfer L1, Chamfer L2 and F-score with SciPy's search."""
    forth = cKDTree(target).query(predicted)[0]
    back = cKDTree(predicted).query(target)[0]
    precision, recall = (forth < threshold).mean(), (back < threshold).mean()
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return (forth.mean() + back.mean()) / 2, (forth**2).mean() + (back**2).mean(), f


def test_the_contract_s_example():
    one, other = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 4.0, 0.0]])
    assert chamfer_l1(one, other).item() == 5
    assert chamfer_l2(one, other).item() == 50
    assert chamfer_l1(one, other).shape == ()
    assert chamfer_l1(one[None], other[None]).shape == (1,)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_all_metrics_are_those_of_a_tree(offset):
    predicted, target = cloud(4, 300) + offset, cloud(4, 257, seed=1) + offset
    found = [m(predicted, target) for m in (chamfer_l1, chamfer_l2)] + [f_score(predicted, target, threshold=0.05)]
    for row in range(4):
        expected = by_tree(predicted[row].double().numpy(), target[row].double().numpy(), 0.05)
        np.testing.assert_allclose([x[row].item() for x in found], expected, rtol=1e-6)


def test_the_f_score_compares_the_distance_not_its_square():
    target = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    assert f_score(target + torch.tensor([0.05, 0, 0]), target).item() == 0
    assert f_score(target + torch.tensor([0.009, 0, 0]), target).item() == pytest.approx(1)
    half = torch.tensor([[0.0, 0, 0], [0.5, 0, 0]])
    assert f_score(half, target, threshold=0.01).item() == pytest.approx(0.5)
    assert f_score(half, target, 0.6).item() == pytest.approx(1)


def test_clouds_of_unequal_size_in_a_batch_give_what_they_give_alone():
    clouds, target = [cloud(n, seed=n) for n in (3, 17, 40)], cloud(3, 25)
    padded = torch.full((3, 40, 3), float("nan"))
    padding = torch.ones(3, 40, dtype=torch.bool)
    for row, one in enumerate(clouds):
        padded[row, : len(one)], padding[row, : len(one)] = one, False
    for metric in (chamfer_l1, chamfer_l2, f_score):
        alone = torch.stack([metric(one, target[row]) for row, one in enumerate(clouds)])
        torch.testing.assert_close(metric(padded, target, predicted_padding=padding), alone)
        torch.testing.assert_close(
            metric(target, padded, target_padding=padding),
            torch.stack([metric(target[row], one) for row, one in enumerate(clouds)]),
        )


def test_a_point_at_the_origin_counts():
    target = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    assert chamfer_l1(target[1:], target).item() == pytest.approx(0.25)


@pytest.mark.parametrize("metric", [chamfer_l1, chamfer_l2, f_score])
@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(2, 3), "predicted: an empty cloud"),
        (torch.zeros(2, 3), torch.zeros(0, 3), "target: an empty cloud"),
        (torch.zeros(2, 2), torch.zeros(2, 3), "predicted: a floating-point cloud"),
        (torch.zeros(1, 2, 3), torch.zeros(2, 3), "both"),
        (torch.zeros(1, 2, 3), torch.zeros(2, 2, 3), "must be equal"),
        (torch.full((2, 3), float("nan")), torch.zeros(2, 3), "no finite number"),
    ],
)
def test_clouds_without_a_distance_are_an_error(metric, predicted, target, message):
    with pytest.raises(ValueError, match=message):
        metric(predicted, target)


def test_a_wholly_padded_cloud_is_empty():
    with pytest.raises(ValueError, match="predicted: an empty cloud"):
        chamfer_l1(cloud(1, 4), cloud(1, 4), predicted_padding=torch.ones(1, 4, dtype=torch.bool))


def test_gradients_are_those_of_differences_and_finite_at_distance_zero():
    predicted, target = cloud(1, 6).double().requires_grad_(), cloud(1, 5, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: chamfer_l1(x, target), predicted)
    assert torch.autograd.gradcheck(lambda x: chamfer_l2(x, target), predicted)
    same = target.clone().requires_grad_()
    chamfer_l1(same, target).sum().backward()
    assert (same.grad == 0).all()

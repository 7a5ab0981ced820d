"""Search and sampling compared with SciPy's trees and with loops."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from tasks.point_cloud_completion import geometry
from tasks.point_cloud_completion.geometry import farthest_points, gather, nearest_both, neighbours


def clouds(*shape, seed=0, offset=0.0):
    """Normally distributed clouds (*shape, 3), moved by the offset."""
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed)) + offset


def distances(points, source, index):
    """The distance of each point to the source points of its indices, in float64."""
    return (points.double()[..., None, :] - gather(source.double(), index)).norm(dim=-1).numpy()


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("block", [2**18, 700])
def test_nearest_points_are_those_of_a_tree_also_far_from_the_origin(offset, block, monkeypatch):
    monkeypatch.setattr(geometry, "CPU_BLOCK", block)
    first, second = clouds(3, 101, offset=offset), clouds(3, 67, seed=1, offset=offset)
    forth, back = nearest_both(first, second)
    for a, b, index in ((first, second, forth), (second, first, back)):
        for row in range(3):
            expected = cKDTree(b[row].double().numpy()).query(a[row].double().numpy())[0]
            found = distances(a[row : row + 1], b[row : row + 1], index[row : row + 1, :, None])[0, :, 0]
            np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_neighbours_are_those_of_a_tree_nearest_first(offset):
    points, source = clouds(2, 40, offset=offset), clouds(2, 33, seed=1, offset=offset)
    index = neighbours(points, source, 5)
    for row in range(2):
        expected = cKDTree(source[row].double().numpy()).query(points[row].double().numpy(), k=5)[0]
        np.testing.assert_allclose(distances(points, source, index)[row], expected, rtol=1e-12)


def test_a_source_with_fewer_points_gives_its_nearest_again():
    points, source = clouds(1, 9), clouds(1, 6, seed=1)
    padding = torch.tensor([[False, True, False, True, True, False]])
    index = neighbours(points, source, 8, source_padding=padding)
    assert set(index.flatten().tolist()) <= {0, 2, 5}
    assert (index[..., 3:] == index[..., :1]).all()


def sampled_by_loop(cloud, num):
    """Farthest-point sampling by its definition, in float64."""
    cloud = cloud.double().numpy()
    chosen = [int(np.linalg.norm(cloud - cloud.mean(0), axis=1).argmax())]
    while len(chosen) < num:
        chosen.append(int(np.linalg.norm(cloud[:, None] - cloud[chosen], axis=2).min(1).argmax()))
    return chosen


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_farthest_point_sampling_is_its_definition(offset):
    points = clouds(3, 50, offset=offset)
    chosen, padding = farthest_points(points, 20)
    assert chosen.tolist() == [sampled_by_loop(cloud, 20) for cloud in points]
    assert not padding.any()
    assert torch.equal(farthest_points(points, 7)[0], chosen[:, :7])


def test_sampling_takes_no_padded_point_and_marks_where_points_run_out():
    points = clouds(2, 30)
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[0, 12:], points[0, 12:] = True, float("nan")
    chosen, none_left = farthest_points(points, 16, padding=padding)
    assert chosen[0, :12].tolist() == sampled_by_loop(points[0, :12], 12)
    assert none_left.tolist() == [[False] * 12 + [True] * 4, [False] * 16]


def test_equal_points_are_each_chosen_once():
    chosen, none_left = farthest_points(torch.zeros(1, 5, 3), 6)
    assert sorted(chosen[0, :5].tolist()) == [0, 1, 2, 3, 4]
    assert none_left.tolist() == [[False] * 5 + [True]]


def test_gather_and_its_gradient():
    values = clouds(2, 6).requires_grad_()
    index = torch.tensor([[[0, 5], [5, 5]], [[1, 2], [3, 1]]])
    out = gather(values, index)
    expected = torch.stack([values[row][index[row]] for row in range(2)])
    assert torch.equal(out, expected)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad((x * weight).sum(), values)[0] for x in (out, expected)))

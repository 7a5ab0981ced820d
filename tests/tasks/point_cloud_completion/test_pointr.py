"""The model: its size, padding, the order of points, its shortcuts, learning by heart."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark.multihead import AttentionSites
from tasks.point_cloud_completion.metrics import chamfer_l1
from tasks.point_cloud_completion.pointr import EdgeConvolution, FoldMap, NeighbourAttention, PoinTr, with_waves

from .conftest import SMALL_MODEL, softmax_sites


def small_model(**options):
    """A small PoinTr with softmax, the same weights each time."""
    torch.manual_seed(0)
    return PoinTr(attention_for=softmax_sites(), **{**SMALL_MODEL, **options})


def cloud(*shape, seed=0):
    """Clouds (*shape, 3) in the cube from -1 to 1."""
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_published_size():
    with torch.device("meta"):
        count = sum(p.numel() for p in PoinTr(attention_for=softmax_sites()).parameters())
    # The published code builds the branches' maps in all 6 + 8 blocks and uses them in two.
    branch = (2 * 384 * 384 + 384) * 2
    assert count == 31_276_806 == 42_498_054 - (5 + 2 * 7) * branch


def test_attentions_are_asked_for_with_the_lengths_they_meet():
    asked = []

    def attention_for(pattern, **options):
        asked.append((pattern, options["max_length"], options["bias"]))
        return softmax_sites()(pattern, **options)

    PoinTr(attention_for=attention_for, **SMALL_MODEL)
    assert asked == [("noncausal_self", 12, False), ("noncausal_self", 16, False), ("noncausal_cross", 16, False)]


def test_the_branches_stay_when_the_attention_is_replaced():
    for pattern in ("noncausal_self", "noncausal_cross"):
        sites = AttentionSites("none", pattern, {})
        model = PoinTr(attention_for=sites, **{**SMALL_MODEL, "num_encoder_layers": 2, "num_decoder_layers": 2})
        assert len(sites.replaced) == (4 if pattern == "noncausal_self" else 2)
        branches = [module for module in model.modules() if isinstance(module, NeighbourAttention) and module.map]
        assert len(branches) == 3
        out = model(cloud(2, 48)).dense
        out.square().sum().backward()
        assert all(branch.map.weight.grad.abs().sum() > 0 for branch in branches)


def test_without_a_global_feature_only_cross_attention_reads_the_input():
    points = cloud(2, 48)
    for attention, differs in (("softmax", True), ("none", False)):
        sites = AttentionSites(attention, "noncausal_cross", {})
        torch.manual_seed(0)
        model = PoinTr(attention_for=sites, **{**SMALL_MODEL, "global_dim": 0, "num_branches": 0}).eval()
        made = model(points)
        assert torch.equal(made.coarse[0], made.coarse[1])
        assert torch.equal(made.dense[0], made.dense[1]) != differs


@pytest.mark.parametrize(("global_dim", "num_branches"), [(32, 1), (32, 0), (0, 1), (0, 0)])
def test_every_parameter_learns(global_dim, num_branches):
    model = small_model(num_encoder_layers=2, num_decoder_layers=2, global_dim=global_dim, num_branches=num_branches)
    made = model(cloud(3, 48))
    assert made.coarse.shape == (3, 16, 3)
    assert made.dense.shape == (3, 64, 3)
    (made.coarse.square().sum() + (made.dense - 0.3).square().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing_whatever_it_holds(training):
    model = small_model().train(training)
    points = cloud(3, 48)
    padding = torch.zeros(3, 48, dtype=torch.bool)
    padding[0, 40:], padding[1, 9:] = True, True  # the second has fewer points than there are centres and proxies
    outputs = []
    for content in (0.0, 5.0, float("nan")):
        outputs.append(model(points.masked_fill(padding[..., None], content), padding))
    assert all(torch.equal(outputs[0].dense, other.dense) for other in outputs[1:])
    if not training:
        for row, count in enumerate((40, 9, 48)):
            torch.testing.assert_close(
                model(points[row : row + 1, :count]).dense[0], outputs[0].dense[row], atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_cloud_s_completion_does_not_depend_on_its_batch(batch_size):
    model, points = small_model().eval(), cloud(8, 48)
    whole = model(points).dense
    parts = torch.cat([model(part).dense for part in points.split(batch_size)])
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("global_dim", [0, 32])
def test_the_order_of_points_changes_nothing(global_dim):
    model, points = small_model(global_dim=global_dim).eval(), cloud(2, 48)
    shuffled = points[:, torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(model(shuffled).dense, model(points).dense, atol=1e-6, rtol=0)


def test_a_point_at_the_origin_is_seen():
    model, points = small_model().eval(), cloud(1, 48)
    points[0, 20] = 0
    assert not torch.allclose(model(points).dense, model(points[:, torch.arange(48) != 20]).dense)


def test_an_edge_convolution_is_its_definition():
    torch.manual_seed(0)
    layer = EdgeConvolution(5, 8).double()
    nn.init.normal_(layer.norm.weight)  # of both signs, because the shortcut treats them differently
    nn.init.normal_(layer.norm.bias)
    source, centre = torch.randn(2, 9, 5).double(), torch.randn(2, 6, 5).double()
    index = torch.randint(0, 9, (2, 6, 3))
    near = torch.stack([source[row][index[row]] for row in range(2)])  # (b, n, k, c)
    own = centre[:, :, None].expand_as(near)
    pairs = F.linear(torch.cat((near - own, own), dim=3), layer.map.weight).permute(0, 3, 1, 2)  # (b, c, n, k)
    expected = F.leaky_relu(layer.norm(pairs), 0.2).amax(3).transpose(1, 2)
    torch.testing.assert_close(layer(centre, source, index, None), expected, atol=1e-5, rtol=1e-5)


def test_a_folding_map_is_its_definition():
    torch.manual_seed(0)
    layer = FoldMap(2, 6, 8).double().eval()
    seeds, features = torch.randn(2, 4, 9, 2).double(), torch.randn(2, 4, 6).double()
    joined = torch.cat((seeds, features[:, :, None].expand(-1, -1, 9, -1)), dim=3)
    torch.testing.assert_close(layer(seeds, features), layer.rest(layer.map(joined).flatten(0, 2)).view(2, 4, 9, 3))


def test_a_handful_of_clouds_is_learnt_by_heart():
    """The model predicts more points than the targets have, so that the distance can vanish."""
    model = small_model(embed_dim=32, num_queries=16, fold_size=1, num_centres=24, global_dim=64, fold_dim=32)
    points, target = cloud(4, 32), cloud(4, 12, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = None
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 150)
        made = model(points)
        loss = (chamfer_l1(made.coarse, target) + chamfer_l1(made.dense, target)).mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first, (first, loss.item())


def test_waves_are_sines_and_cosines_of_doubling_frequency():
    points = cloud(2, 5).double()
    made = with_waves(points, 3)
    assert made.shape == (2, 5, 3 + 6 * 3)
    for row, point in zip(made[1].tolist(), points[1].tolist(), strict=True):
        angles = [math.pi * 2**number * coordinate for coordinate in point for number in range(3)]
        assert row == pytest.approx([*point, *map(math.sin, angles), *map(math.cos, angles)], abs=1e-6)
    assert with_waves(points, 0) is points


@pytest.mark.slow
def test_a_full_size_step():
    torch.manual_seed(0)
    model = PoinTr(attention_for=softmax_sites())
    points, target = cloud(2, 2048), cloud(2, 16384, seed=1)
    made = model(points)
    assert made.dense.shape == (2, 14336, 3)
    (chamfer_l1(made.coarse, target) + chamfer_l1(torch.cat((made.dense, points), 1), target)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())

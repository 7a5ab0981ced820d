"""The task, called as the engine calls it."""

from pathlib import Path

import believable
import numpy as np
import pytest
import torch
import yaml

from benchmark.interface import PRESETS
from benchmark.running.trainer import evaluate
from tasks.point_cloud_completion import task as task_module
from tasks.point_cloud_completion.controls import KnownShapes, mean_shapes
from tasks.point_cloud_completion.figures import figures, seen_from_camera
from tasks.point_cloud_completion.metrics import chamfer_l1
from tasks.point_cloud_completion.packing import DRAWN_STEP, pack, unpack
from tasks.point_cloud_completion.task import CompletionSettings, PointCloudCompletion

from .conftest import settings_of, softmax_sites

PRESET_FILE = Path(task_module.__file__).with_name("presets.yaml")


def model_of(task):
    """The task's model, the same weights each time."""
    torch.manual_seed(0)
    return task.build_model(softmax_sites())


def test_the_class_has_the_declarations_of_the_protocol():
    assert PointCloudCompletion.name == "point_cloud_completion"
    assert next(iter(PointCloudCompletion.metrics)) == PointCloudCompletion.selection == "chamfer_l1"
    assert set(PointCloudCompletion.metrics) == {"chamfer_l1", "chamfer_l2", "f_score"}
    assert PointCloudCompletion.metrics["f_score"].higher_is_better
    with pytest.raises(ValueError, match="backbone 'gpt'"):
        PointCloudCompletion(settings_of(), backbone="gpt")


def test_a_score_is_that_of_the_data_s_coordinates(make_task):
    task = make_task()
    example = task.data.splits.test[2]
    columns = evaluate(task, model_of(task), [example], batch_size=1)
    model = model_of(task).eval()
    points = example.partial[None, ~example.padding]
    predicted = torch.cat((model(points).dense, points), dim=1)
    at_home = [x.double() * example.scale + example.centre for x in (predicted, example.complete[None])]
    assert columns["chamfer_l1"][0] == pytest.approx(1000 * chamfer_l1(*at_home).item(), rel=1e-4)
    shape = task.data.parts[2].complete[2]
    np.testing.assert_allclose(at_home[1][0].detach(), shape, atol=1e-5)


@pytest.mark.parametrize("batch_size", [3, 8])
def test_no_batch_size_changes_a_score(make_task, batch_size):
    task = make_task(data={"num_input": 400, "resolution": 24})  # most clouds have fewer points, so padding differs
    assert {int((~task.data.splits.test[i].padding).sum()) for i in range(7)} != {400}
    model = model_of(task)
    alone, together = (evaluate(task, model, task.data.splits.test, batch_size=size) for size in (1, batch_size))
    for name, column in alone.items():
        np.testing.assert_allclose(together[name], column, rtol=1e-5)


def test_a_loss_is_the_sum_over_clouds(make_task):
    task = make_task()
    model = model_of(task).eval()
    examples = [task.data.splits.train[i] for i in range(5)]
    whole = task.loss(model, task.collate(examples))
    parts = [task.loss(model, task.collate(group)) for group in (examples[:2], examples[2:])]
    assert whole.num_terms == 5
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)


def test_mirroring_moves_pairs_together_and_in_training_alone(make_task):
    task, plain = make_task(data={"mirror": True}), make_task()
    batch = task.collate([task.data.splits.train[i] for i in range(6)])
    mirrored = task_module._mirrored(batch)
    signs = mirrored.complete / batch.complete
    assert set(signs[..., 1].flatten().round().tolist()) == {1.0}
    assert {-1.0, 1.0} == set(signs[..., 0].flatten().round().tolist())
    torch.testing.assert_close(mirrored.partial.abs(), batch.partial.abs())
    model = model_of(task).eval()
    assert torch.equal(task.loss(model, batch).total, plain.loss(model, batch).total)


def test_controls_score_the_input_and_are_kept_in_the_cache(make_task):
    task = make_task()
    controls = task.controls()
    assert set(controls) == {"partial", "mean_shape", "nearest_shape"}
    example = task.data.splits.test[1]
    seen = example.partial[~example.padding] * example.scale + example.centre
    truth = example.complete * example.scale + example.centre
    assert controls["partial"]["chamfer_l1"][1] == pytest.approx(1000 * chamfer_l1(seen, truth).item(), rel=1e-5)
    again = task.controls()  # from the cache
    np.testing.assert_array_equal(controls["mean_shape"]["f_score"], again["mean_shape"]["f_score"])


def test_a_mean_shape_of_equal_shapes_is_that_shape(make_task):
    task = make_task()
    train = task.data.parts[0]
    train.category[:] = 0
    train.shape[:] = 0
    (mean, *_) = mean_shapes(task.data, len(train))
    torch.testing.assert_close(mean.sort(0).values, train[0].complete.sort(0).values)


def test_the_nearest_shape_is_that_of_the_most_similar_partial_cloud(make_task):
    task = make_task()
    train, test = task.data.parts[0], task.data.parts[2]
    known = KnownShapes(task.data, len(train))
    for index in range(3):
        seen = test[index].partial[~test[index].padding]
        by_distance = [
            chamfer_l1(example.partial[~example.padding].double(), seen.double()).item()
            for example in (train[i] for i in range(len(train)))
        ]
        assert torch.equal(known.nearest(test[index]), train[int(np.argmin(by_distance))].complete)
    assert all(torch.equal(known.nearest(train[i]), train[i].complete) for i in range(len(train)))


def test_rules_read_no_more_examples_than_the_model(make_task):
    task = make_task()
    all_read, few_read = task.controls(), task.controls_after(2)
    np.testing.assert_array_equal(few_read["partial"]["chamfer_l1"], all_read["partial"]["chamfer_l1"])
    assert (
        task.controls_after(10**6)["mean_shape"]["chamfer_l1"].tolist() == all_read["mean_shape"]["chamfer_l1"].tolist()
    )
    example, train = task.data.splits.test[0], task.data.parts[0]
    target = example.complete * example.scale + example.centre
    known = [1000 * chamfer_l1(train[i].complete * example.scale + example.centre, target).item() for i in range(2)]
    assert any(few_read["nearest_shape"]["chamfer_l1"][0] == pytest.approx(value, rel=1e-4) for value in known)
    assert not np.array_equal(few_read["mean_shape"]["chamfer_l1"], all_read["mean_shape"]["chamfer_l1"])


def test_curves_draw_without_scoring_the_test_part(make_task):
    task = make_task()
    model = model_of(task)
    model.train()
    curves = task.curves(model)
    assert model.training
    assert [shape["name"] for shape in curves["shapes"]] == ["aeroplane 0", "cylinder 3", "torus 6"]
    assert curves["scans"] == []
    example = task.data.splits.test[3]
    np.testing.assert_allclose(unpack(curves["shapes"][1]["truth"].content), example.complete, atol=DRAWN_STEP)
    seen = example.partial[~example.padding]
    np.testing.assert_allclose(unpack(curves["shapes"][1]["partial"].content), seen, atol=DRAWN_STEP)
    assert len(unpack(curves["shapes"][1]["completion"].content)) == 64 + len(seen)


def test_packing_keeps_a_bounded_number_of_points():
    cloud = np.random.default_rng(0).random((5000, 3))
    assert len(unpack(pack(cloud))) == 1024
    np.testing.assert_allclose(unpack(pack(cloud[:9])), cloud[:9], atol=DRAWN_STEP)


def test_figures_show_every_attention_of_a_pattern(make_task, tmp_path):
    task = make_task()
    curves = task.curves(model_of(task))
    cells = [(p, a, s) for p in ("noncausal_self", "noncausal_cross") for a in ("softmax", "lavo") for s in (0, 1)]
    records = [believable.with_curves(curves, tmp_path, pattern=p, attention=a, seed=s) for p, a, s in cells]
    records.append(believable.with_curves({}, pattern="noncausal_self", attention="failed"))
    made = figures(records)
    assert set(made) == {"completions_noncausal_self", "completions_noncausal_cross"}
    axes = made["completions_noncausal_self"].axes
    assert [axis.get_title() for axis in axes[:4]] == ["partial", "truth", "softmax", "lavo"]
    assert len(axes) == 12
    assert figures([]) == {}
    # All cells share the files of three shapes: partial, truth, and here the completion too.
    assert len(list((tmp_path / "attachments").iterdir())) == 9
    (tmp_path / "attachments" / records[0].curves["shapes"][0]["truth"]["attachment"]).unlink()
    assert figures(records) == {}


def test_the_camera_only_turns():
    cloud = np.random.default_rng(0).random((20, 3))
    view = seen_from_camera(cloud)
    np.testing.assert_allclose(np.linalg.norm(view - view[0], axis=1), np.linalg.norm(cloud - cloud[0], axis=1))


def preset(name):
    """The groups of a preset on top of those of ``base``, and its seeds."""
    content = yaml.safe_load(PRESET_FILE.read_text())
    base, own = content["base"], content[name]
    groups = {key: {**base.get(key, {}), **own.get(key, {})} for key in ("data", "model", "eval", "train")}
    return groups, own["seeds"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    groups, seeds = preset(name)
    train = groups.pop("train")
    CompletionSettings.model_validate(groups)
    assert ("steps" in train) != ("epochs" in train)
    assert len(set(seeds)) == len(seeds) >= 1


def test_the_paper_preset_has_the_published_sizes():
    groups, _ = preset("paper")
    train = groups.pop("train")
    assert (train["learning_rate"], train["weight_decay"], train["batch_size"], train["clip_norm"]) == (
        5e-4,
        5e-4,
        48,
        10,
    )
    settings = CompletionSettings.model_validate(groups)
    assert (settings.data.num_input, settings.data.num_target, settings.data.frame) == (2048, 16384, "given")
    with torch.device("meta"):
        model = PointCloudCompletion(settings, backbone="pointr").build_model(softmax_sites())
    assert sum(p.numel() for p in model.parameters()) == 31_276_806
    assert settings.model.num_queries * settings.model.fold_size**2 + settings.data.num_input == 16384


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("model", {"num_heads": 3}, "embed_dim 16 is not a multiple of num_heads 3"),
        ("model", {"num_queries": 30}, "at most num_centres 24"),
        ("model", {"group_dims": [4, 6, 8, 8, 8]}, "multiples of 4"),
        ("model", {"num_centres": 64}, "at most data.num_input 48"),
        ("data", {"num_input": 8}, "num_input"),
        ("data", {"frame": "complete"}, "frame"),
    ],
)
def test_settings_that_do_not_fit_are_named(group, values, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**{group: values})

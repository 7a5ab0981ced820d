"""Shapes, views and pairs: even sampling, occlusion, frames, layouts, caching."""

import shutil

import numpy as np
import pytest
import torch

from tasks.point_cloud_completion.data import make_example, model_frame
from tasks.point_cloud_completion.grouping import Groups, GroupSizes, find_groups
from tasks.point_cloud_completion.scan import sample_surface, visible_points
from tasks.point_cloud_completion.solids import SOLIDS, Mesh, box, joined, make_solid, moved

from .conftest import SMALL_MODEL, softmax_sites


@pytest.mark.parametrize("category", SOLIDS)
def test_solids_fill_their_unit_box_and_differ(category):
    shapes = [make_solid(category, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for mesh in shapes:
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        np.testing.assert_allclose(low + high, 0, atol=1e-5)
        assert (high - low).max() == pytest.approx(1, abs=1e-5)
        assert mesh.faces.min() >= 0
        assert mesh.faces.max() < len(mesh.vertices)
    assert np.array_equal(shapes[0].vertices, shapes[1].vertices)
    assert not np.array_equal(shapes[0].vertices, shapes[2].vertices)


def test_points_are_spread_by_area():
    """On a plate of 1 x 1, and one of 2 x 1 that is cut into many triangles."""
    strip = [moved(box(2 / 40, 0, 1), x=5 + i / 20) for i in range(40)]
    points = sample_surface(joined([box(1, 0, 1), *strip]), 3000, np.random.default_rng(0))
    assert (points[:, 0] > 2).mean() == pytest.approx(2 / 3, abs=0.01)
    quarter = points[(points[:, 0] < 2)]
    assert ((quarter[:, 0] < 0) & (quarter[:, 2] < 0)).mean() == pytest.approx(0.25, abs=0.03)


def test_a_camera_sees_the_front_and_a_screen_hides_the_wall_behind_it():
    wall, screen = moved(box(4, 4, 0.01), z=-1), moved(box(1, 1, 0.01), z=1)
    seen = visible_points(joined([wall, screen]), np.array([0.0, 0.0, 1.0]), 64)
    assert seen[:, 2].min() == pytest.approx(-0.995)  # the front of the wall, never its back
    behind = (np.abs(seen[:, :2]) < 0.45).all(1)
    assert (seen[behind, 2] > 1).all()
    assert behind.sum() == pytest.approx(64 * 64 / 16, rel=0.25)
    assert len(seen) == pytest.approx(64 * 64, rel=0.02)


def test_seen_points_lie_on_the_surface_and_the_far_side_is_missing():
    mesh = make_solid("torus", np.random.default_rng(0))
    direction = np.array([0.6, 0.0, 0.8])
    seen, whole = visible_points(mesh, direction, 48), sample_surface(mesh, 6000, np.random.default_rng(0))
    distance = np.linalg.norm(seen[:, None] - whole, axis=2).min(1)
    assert distance.max() < 0.04
    away = whole[(whole @ direction).argmin()]
    assert np.linalg.norm(seen - away, axis=1).min() > 0.03


def test_the_frame_comes_from_the_partial_cloud_alone():
    generator = np.random.default_rng(0)
    partial = generator.random((30, 3)).astype(np.float32) * 5 + 100
    examples = [
        make_example(partial, complete, 40, "partial", None) for complete in generator.random((2, 9, 3)) * (7, 500, 1)
    ]
    assert torch.equal(examples[0].partial, examples[1].partial)
    assert torch.equal(examples[0].scale, examples[1].scale)
    inside = examples[0].partial[~examples[0].padding]
    assert inside.abs().max() == pytest.approx(1, abs=1e-4)
    back = inside.double() * examples[0].scale + examples[0].centre
    np.testing.assert_allclose(back, partial, atol=1e-4)
    assert examples[0].padding.sum() == 10
    assert model_frame(np.zeros((3, 3)))[1] == 1.0  # a single place has no size
    given = make_example(partial, partial, 30, "given", None)
    np.testing.assert_array_equal(given.partial, partial)


def test_prepared_groups_are_what_the_model_finds(make_task):
    task = make_task()
    batch = task.collate([task.data.splits.train[i] for i in range(5)])
    sizes = GroupSizes(SMALL_MODEL["num_centres"], SMALL_MODEL["num_proxies"], SMALL_MODEL["num_neighbours"], 8)
    found = find_groups(batch.partial, sizes, padding=batch.padding)
    real = ~batch.padding
    for name in Groups._fields:
        known, new = getattr(batch.groups, name), getattr(found, name)
        if name == "of_points":
            known, new = known[real], new[real]
        # Points of the pixel grid may be equally near, and the frame's rounding may then swap them.
        assert (known != new).float().mean() < 0.05, name
    assert torch.equal(batch.groups.centre_padding, found.centre_padding)


def write_mesh(path, seed):
    """Writes an embedded chair as .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = make_solid("chair", np.random.default_rng(seed))
    np.savez(path, vertices=mesh.vertices.astype(np.float32), faces=mesh.faces.astype(np.int32))


@pytest.fixture
def mesh_root(tmp_path):
    """A data root with three chairs in each part of ``pcc/own``."""
    root = tmp_path / "root"
    for number, part in enumerate(("train", "validation", "test")):
        for shape in range(3):
            write_mesh(root / "pcc" / "own" / "chair" / part / f"{shape}.npz", 10 * number + shape)
    return root


def test_meshes_by_category_and_part(make_task, mesh_root):
    task = make_task(mesh_root, data={"folder": "own", "num_views": 2})
    splits = task.data.splits
    assert (splits.name, splits.embedded) == ("own", False)
    assert list(map(len, task.data.parts)) == [6, 3, 3]
    assert task.data.categories == ("chair",)
    assert task.data.parts[0].clusters.tolist() == [0, 0, 1, 1, 2, 2]  # two views of each shape
    again = make_task(mesh_root, data={"folder": "own", "num_views": 2})
    assert torch.equal(again.data.parts[0][3].partial, task.data.parts[0][3].partial)
    write_mesh(mesh_root / "pcc" / "own" / "chair" / "test" / "2.npz", 99)
    assert make_task(mesh_root, data={"folder": "own"}).data.splits.fingerprint != splits.fingerprint


def cloud(count, seed):
    """A random cloud in the unit cube.  float32 (count, 3)"""
    return np.random.default_rng(seed).random((count, 3)).astype(np.float32)


def test_pcn_s_layout_with_several_views(make_task, tmp_path):
    import h5py

    root = tmp_path / "PCN"
    for part in ("train", "val", "test"):
        for model in ("a", "b"):
            whole = root / part / "complete" / "0269" / f"{model}.h5"
            whole.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(whole, "w") as file:
                file["data"] = cloud(80, 1)
            for view in range(3):
                partial = root / part / "partial" / "0269" / model / f"0{view}.npy"
                partial.parent.mkdir(parents=True, exist_ok=True)
                np.save(partial, cloud(30 + view, view))
    task = make_task(None, data={"folder": str(root), "frame": "given"})
    assert list(map(len, task.data.parts)) == [6, 2, 2]
    examples = [task.data.parts[0][i] for i in range(3)]
    assert [int((~example.padding).sum()) for example in examples] == [30, 31, 32]
    assert str(tmp_path) not in str(dict(task.data.splits.details))
    batch = task.collate(examples)
    assert batch.groups is None
    model = task.build_model(softmax_sites())
    assert torch.isfinite(task.loss(model, batch).total)
    assert set(task.controls()) == {"partial", "mean_shape", "nearest_shape"}
    np.save(root / "test" / "partial" / "0269" / "b" / "00.npy", cloud(3, 0))
    with pytest.raises(ValueError, match=r"test/partial.*|0269/b/00\.npy: the partial cloud has 3 points, at least 16"):
        make_task(None, data={"folder": str(root)}).data.parts[2][1]


def test_shapenet_s_layout(make_task, tmp_path):
    root = tmp_path / "ShapeNet55"
    (root / "ShapeNet-55").mkdir(parents=True)
    (root / "shapenet_pc").mkdir()
    for name, count in (("train", 20), ("test", 2)):
        lines = [f"0269-{name}{i}.npy" for i in range(count)]
        (root / "ShapeNet-55" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        for i, line in enumerate(lines):
            np.save(root / "shapenet_pc" / line, cloud(200, i) * 9 + 4)
    task = make_task(None, data={"folder": str(root), "frame": "given"})
    assert list(map(len, task.data.parts)) == [19, 1, 2]
    example = task.data.parts[0][0]
    assert torch.equal(example.partial, task.data.parts[0][0].partial)
    assert example.complete.norm(dim=1).max() <= 1 + 1e-6
    (root / "ShapeNet-55" / "test.txt").write_text("../../secret.npy\n")
    with pytest.raises(ValueError, match=r"test\.txt: line 1: no cloud"):
        make_task(None, data={"folder": str(root)})


def test_bad_folders_are_one_line(make_task, tmp_path, mesh_root):
    with pytest.raises(ValueError, match=r"data\.folder nowhere: no such folder"):
        make_task(tmp_path, data={"folder": "nowhere"})
    (mesh_root / "pcc" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no shape of the part train; the layout is"):
        make_task(mesh_root, data={"folder": "empty"})
    (mesh_root / "pcc" / "own" / "chair" / "test" / "0.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"^pcc/own/chair/test/0\.npz: can't be read as NPZ"):
        make_task(mesh_root, data={"folder": "own"})


def test_the_only_set_of_a_data_root_needs_no_option(make_task, mesh_root, tmp_path):
    (mesh_root / "pcc" / "scans-alone" / "partial").mkdir(parents=True)  # no set: it has no training part
    assert make_task(mesh_root).data.splits.name == "own"
    (mesh_root / "pcc" / "own").rename(tmp_path / "own")
    with pytest.raises(
        ValueError, match=r"^data\.folder: no set of shapes in root/pcc; give a folder there, or a path$"
    ):
        make_task(mesh_root)
    for name in ("first", "second"):
        shutil.copytree(tmp_path / "own", mesh_root / "pcc" / name)
    with pytest.raises(
        ValueError, match=r"^data\.folder: root/pcc has 2 sets, first, second; choose one with data\.folder$"
    ):
        make_task(mesh_root)
    assert make_task(mesh_root, data={"folder": "second"}).data.splits.name == "second"
    (mesh_root / "pcc" / "second").rename(mesh_root / "pcc" / "sweethome3d")  # the one of shared/data
    assert make_task(mesh_root).data.splits.name == "sweethome3d"


def test_a_mesh_without_thickness_is_fine(mesh_root, make_task):
    flat = Mesh(np.array([(0.0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)]), np.array([[0, 1, 2], [1, 2, 3]]))
    np.savez(mesh_root / "pcc" / "own" / "chair" / "test" / "0.npz", vertices=flat.vertices, faces=flat.faces)
    assert len(make_task(mesh_root, data={"folder": "own"}).data.parts[2]) == 3


@pytest.mark.slow
def test_the_real_meshes_load(make_task, real_data):
    task = make_task(real_data, data={"resolution": 24})
    assert list(map(len, task.data.parts)) == [261, 57, 57]
    assert len(task.data.categories) == 10
    curves = task.curves(task.build_model(softmax_sites()))
    assert [scan["name"] for scan in curves["scans"]] == ["pcn-airplane", "pcn-car", "pcn-chair"]

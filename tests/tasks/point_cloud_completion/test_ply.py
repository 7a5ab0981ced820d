"""PLY of every kind, announced numbers, whole numbers as coordinates, scans that are checked at load, caches."""

import io
import struct

import numpy as np
import pytest
import trimesh

from tasks.point_cloud_completion.data import model_frame
from tasks.point_cloud_completion.meshes import read_cloud, read_mesh

from .test_data import cloud, mesh_root  # noqa: F401  a fixture
from .test_files import CUBE, OFF_BODY, pcd_header

POINTS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 0.5, 1.1)]
POLYGONS = {
    "triangles": [(0, 1, 2), (0, 2, 3), (0, 1, 4)],
    "quads": [(0, 1, 2, 3), (1, 2, 3, 4)],
    "pentagon": [(0, 1, 2, 3, 4)],
    "mixed": [(0, 1, 2, 3), (0, 1, 4)],
    "mixed, the first a triangle": [(0, 1, 4), (0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2)],
}
TRIANGLES = {
    "triangles": 3,
    "quads": 4,
    "pentagon": 3,
    "mixed": 3,
    "mixed, the first a triangle": 6,
}


def ply(kind, polygons, *, extra=False):
    """The bytes of a PLY file; extra: with a colour of vertices, a flag before and a list behind the corners of a face."""
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    colour, flag, weights = (
        ("property uchar red\n", "property uchar flags\n", "property list uchar float weights\n")
        if extra
        else ("", "", "")
    )
    head = (
        f"ply\nformat {kind} 1.0\ncomment made here\nelement vertex {len(POINTS)}\nproperty float x\n{colour}property float y\n"
        f"property float z\nelement face {len(polygons)}\n{flag}property list uchar int vertex_indices\n{weights}end_header\n"
    ).encode()
    rows = [[("f", x), *([("B", 7)] if extra else []), ("f", y), ("f", z)] for x, y, z in POINTS]
    for number, polygon in enumerate(polygons):
        row = [("B", len(polygon)), *(("i", corner) for corner in polygon)]
        if extra:
            row = [("B", 1), *row, ("B", number), *(("f", 0.5) for _ in range(number))]
        rows.append(row)
    if kind == "ascii":
        return head + "".join(" ".join(str(value) for _, value in row) + "\n" for row in rows).encode()
    return head + b"".join(struct.pack(order + code, value) for row in rows for code, value in row)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("polygons", POLYGONS)
def test_ascii_and_both_binary_kinds_are_one_mesh(polygons, extra, tmp_path):
    found = []
    for kind in ("ascii", "binary_little_endian", "binary_big_endian"):
        (tmp_path / "a.ply").write_bytes(ply(kind, POLYGONS[polygons], extra=extra))
        found.append(read_mesh(tmp_path / "a.ply"))
    assert [len(mesh.faces) for mesh in found] == [TRIANGLES[polygons]] * 3
    for mesh in found[1:]:
        np.testing.assert_array_equal(mesh.vertices, found[0].vertices)
        np.testing.assert_array_equal(mesh.faces, found[0].faces)
    assert found[0].vertices.max() == np.float32(1.1) or polygons.startswith("nothing")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("polygons", ["triangles", "quads"])
def test_what_trimesh_reads_is_read_in_the_same_order(kind, polygons, tmp_path):
    """Sampled points depend on the order of triangles, so a figure would move with it."""
    content = ply(kind, POLYGONS[polygons])
    (tmp_path / "a.ply").write_bytes(content)
    mesh, other = read_mesh(tmp_path / "a.ply"), trimesh.load(io.BytesIO(content), file_type="ply", process=False)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], np.asarray(other.vertices)[np.asarray(other.faces)])


def test_the_only_list_of_a_face_may_have_any_name(tmp_path):
    (tmp_path / "a.ply").write_bytes(
        ply("binary_little_endian", POLYGONS["mixed"]).replace(b"vertex_indices", b"corners")
    )
    assert len(read_mesh(tmp_path / "a.ply").faces) == 3


GOOD = ply("ascii", POLYGONS["mixed"])
BINARY = ply("binary_little_endian", POLYGONS["mixed"])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has no header"),
        (GOOD.replace(b"ply", b"plx", 1), "it begins with 'plx'"),
        (GOOD.replace(b"ascii", b"text"), "format 'text': ascii, binary_little_endian and binary_big_endian are read"),
        (GOOD.replace(b"float x", b"half x"), "line 5 of its header, 'property half x', is none of PLY"),
        (GOOD.replace(b"vertex 5", b"vertex -5"), "line 4 of its header"),
        (GOOD.replace(b"float y", b"float x"), "a name twice among x, x, z"),
        (GOOD.replace(b"float z", b"float w"), "its vertices have no z"),
        (
            ply("ascii", POLYGONS["mixed"], extra=True).replace(b"vertex_indices", b"corners"),
            "its faces have no list vertex_index or vertex_indices",
        ),
        (GOOD + b"9 9 9\n", "7 lines of data are announced, 8 follow"),
        (GOOD[:-8], "7 lines of data are announced, 6 follow"),
        (GOOD.replace(b"\n3 0 1 4\n", b"\n3 0 1\n"), "face 2 has fewer numbers"),
        (GOOD.replace(b"\n3 0 1 4\n", b"\n3 0 1 4 9\n"), "face 2 has 5 numbers, 4 are announced"),
        (GOOD.replace(b"\n3 0 1 4\n", b"\n-3 0 1 4\n"), "face 2 has fewer numbers"),
        (BINARY + b"more", "4 bytes follow the data"),
        (BINARY[:-1], "ends early, within an item of face"),
        (BINARY[:-30], "ends early"),
    ],
)
def test_a_damaged_ply_is_refused_in_one_line(content, fault, tmp_path):
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.ply: can't be read as PLY: ") as caught:
        read_mesh(tmp_path / "a.ply")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.off", f"OFF\n4 4 6\n{OFF_BODY}9 9 9\n", "it goes on: 4 vertices and 4 faces are announced, 9 lines follow"),
        ("a.pcd", pcd_header("ascii", 1) + "0 0 0\n1 1 1\n", "it goes on: 1 points are announced, 2 lines follow"),
        ("a.pcd", pcd_header("binary", 1).encode() + b"\1" * 24, "it goes on: 1 points of 12 bytes are announced, 24"),
    ],
)
def test_more_data_than_announced_are_refused_like_less(name, content, fault, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"^a\.") as caught:
        (read_mesh if name == "a.off" else read_cloud)(tmp_path / name)
    assert fault in str(caught.value)


def test_an_array_with_more_numbers_than_announced_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 3)))
    with (tmp_path / "a.npy").open("ab") as file:
        np.save(file, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^a\.npy: .* its header promises 72 bytes of numbers, \d+ follow"):
        read_cloud(tmp_path / "a.npy")


def test_whole_numbers_are_coordinates_in_every_format(tmp_path):
    faces = np.array([[0, 1, 2]])
    np.savez(tmp_path / "a.npz", vertices=(CUBE * 7).astype(np.int16), faces=faces)
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n0 0 7\n0 7 0\n3 0 1 2\n")
    np.testing.assert_array_equal(read_mesh(tmp_path / "a.npz").vertices, read_mesh(tmp_path / "a.off").vertices)
    np.savez(tmp_path / "b.npz", vertices=CUBE.astype(complex), faces=faces)
    with pytest.raises(ValueError, match=r"^b\.npz: vertices: numbers \(V, 3\) are needed, not complex128"):
        read_mesh(tmp_path / "b.npz")
    np.save(tmp_path / "b.npy", CUBE.astype(complex))
    with pytest.raises(ValueError, match=r"^b\.npy: a cloud of numbers"):
        read_cloud(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.full((3, 3), 1e300))
    with pytest.raises(ValueError, match=r"^c\.npy: point 1 has a coordinate that is no finite number"):
        read_cloud(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.asfortranarray(CUBE))
    np.testing.assert_array_equal(read_cloud(tmp_path / "d.npy"), CUBE)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (pcd_header("ascii", 20) + "0 0 0\n", "can't be read as PCD: it ends early"),
        (pcd_header("ascii", 1) + "0 0 0\n", "the partial cloud has 1 points, at least 16 are needed"),
    ],
)
def test_a_bad_scan_is_told_at_load_and_not_after_training(content, fault, mesh_root, make_task):  # noqa: F811
    scan = mesh_root / "pcc" / "pcn-sample" / "partial" / "a.pcd"
    scan.parent.mkdir(parents=True)
    scan.write_text(content)
    with pytest.raises(ValueError, match=rf"^pcc/pcn-sample/partial/a\.pcd: {fault}"):
        make_task(mesh_root, data={"folder": "own"})
    make_task(mesh_root, data={"folder": "own"}, eval={"num_drawn": 0})  # no scan is drawn
    scan.with_name("._b.pcd").write_bytes(b"\0\5\26\7")
    scan.write_text(pcd_header("ascii", 20) + "".join(f"{x} {y} {z}\n" for x, y, z in cloud(20, 0)))
    assert [name for name, _ in make_task(mesh_root, data={"folder": "own"}).scans] == ["a"]


@pytest.mark.parametrize("setting", [{"seed": 1}, {"resolution": 24}, {"num_target": 65}, {"frame": "given"}])
def test_controls_of_other_clouds_are_measured_anew(setting, mesh_root, make_task):  # noqa: F811
    """The same cache: a seed and a resolution give other clouds of the same files."""
    first = make_task(mesh_root, data={"folder": "own"}).controls()
    cached = make_task(mesh_root, data={"folder": "own"} | setting).controls()
    new = make_task(mesh_root, data={"folder": "own"} | setting)
    new.cache = mesh_root / "another cache"
    for control, columns in new.controls().items():
        np.testing.assert_array_equal(cached[control]["chamfer_l1"], columns["chamfer_l1"])
    if "frame" not in setting:
        assert not np.array_equal(first["partial"]["chamfer_l1"], cached["partial"]["chamfer_l1"])


def test_points_that_differ_by_rounding_alone_have_no_size():
    place = np.full((20, 3), 0.3, np.float32)
    place[::2] = np.nextafter(place[::2], np.float32(1))
    assert model_frame(place)[1] == 1.0
    assert model_frame(place * np.float32(1.001) + np.eye(20, 3, dtype=np.float32) * 1e-4)[1] < 1e-3

"""Files of meshes and clouds: the variants that are read, and those that are refused in a line with file and fault."""

import struct

import h5py
import numpy as np
import pytest

from tasks.point_cloud_completion.meshes import read_cloud, read_mesh

CUBE = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
OFF_BODY = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
FOUR = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]


@pytest.fixture
def write(tmp_path):
    """write(name, content) gives the path of a new file."""

    def put(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.mark.parametrize("head", ["OFF\n4 4 6\n", "OFF 4 4 6\n", "OFF4 4 6\n", "# a\nOFF # b\n\n4 4 0 # c\n# d\n"])
def test_off_with_its_counts_anywhere_and_comments(write, head):
    mesh = read_mesh(write("a.off", head + OFF_BODY))
    assert mesh.faces.tolist() == FOUR
    assert mesh.vertices.shape == (4, 3)


def test_polygons_become_fans_and_colours_are_left_out(write):
    pentagon = "OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n.5 1.5 0\n0 1 0\n5 0 1 2 3 4 255 0 0\n4 0 1 2 4\n"
    expected = [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 2], [0, 2, 4]]
    assert read_mesh(write("a.off", pentagon)).faces.tolist() == expected


def test_obj_with_polygons_texture_indices_lines_and_materials(write):
    text = (
        "mtllib away.mtl\ng x\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv .5 1.5 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\nusemtl red\n"
        "f 1//1 2//1 3//1 4//1 5//1\n# comment\nf 1 2\nf 1/1/1 2/1/1 3/1/1\n"
    )
    mesh = read_mesh(write("a.obj", text))
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    assert len(mesh.faces) == 4
    assert area == pytest.approx(1.25 + 0.5)


def test_obj_with_negative_indices_counts_from_what_was_read(write):
    mesh = read_mesh(write("a.obj", "v 9 9 9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 1\nf -4 -1 -2\n"))
    found = sorted(sorted(map(tuple, mesh.vertices[face].tolist())) for face in mesh.faces)
    assert found == sorted([sorted([(0, 0, 0), (1, 0, 0), (0, 1, 0)]), sorted([(0, 0, 0), (0, 0, 1), (0, 1, 0)])])
    assert mesh.vertices.max() == 1  # the unused vertex is gone; it would make the bounding box too large


PLY_HEAD = "ply\nformat {} 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
PLY_FACES = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"


def test_ply_text_and_binary_are_the_same(write):
    square = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    text = PLY_HEAD.format("ascii") + PLY_FACES + "".join("{} {} {}\n".format(*v) for v in square) + "4 0 1 2 3\n"
    binary = (PLY_HEAD.format("binary_little_endian") + PLY_FACES).encode()
    binary += b"".join(struct.pack("<3f", *v) for v in square) + struct.pack("<B4i", 4, 0, 1, 2, 3)
    first, second = read_mesh(write("a.ply", text)), read_mesh(write("b.ply", binary))
    assert np.array_equal(first.vertices[first.faces], second.vertices[second.faces])
    assert len(first.faces) == 2
    cloud = PLY_HEAD.format("ascii") + "end_header\n" + "".join("{} {} {}\n".format(*v) for v in square)
    assert read_cloud(write("c.ply", cloud)).tolist() == [list(map(float, v)) for v in square]


def test_npz_meshes(tmp_path):
    np.savez(tmp_path / "a.npz", vertices=CUBE.astype(np.float32), faces=np.array([[0, 1, 2]], np.int32))
    assert read_mesh(tmp_path / "a.npz").faces.tolist() == [[0, 1, 2]]


BAD_MESHES = [
    ("a.off", "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1", "it ends early"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1\n", "face 1 announces 3 corners and has 2"),
    ("a.off", "PLY\n", "not with OFF"),
    ("a.off", "", "not with OFF"),
    ("a.off", "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "no faces"),
    ("a.off", "OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "vertex 1 has a coordinate that is no finite number"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "triangle 1 names a vertex that is not there"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "no area"),
    ("a.obj", "v 0 0 0\nv 1 0 0\n", "no faces"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", ""),
    ("a.obj", "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "no finite number"),
    ("a.ply", "ply\nformat ascii 1.0\nelement vertex 3\n", ""),
    ("a.ply", PLY_HEAD.format("binary_little_endian").encode() + PLY_FACES.encode() + b"\0" * 7, ""),
    ("a.npz", b"PK\3\4 and no more", ""),
    ("a.npz", b"", ""),
    ("a.stl", "solid", "meshes are .npz, .obj, .off, .ply"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_MESHES)
def test_a_bad_mesh_is_refused_in_one_line(write, name, content, message):
    with pytest.raises(ValueError, match=r"^a\.") as caught:
        read_mesh(write(name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mesh_that_wants_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", vertices=np.array([{"a": 1}], object), faces=np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match=r"a\.npz: can't be read as NPZ: .*allow_pickle"):
        read_mesh(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", points=CUBE)
    with pytest.raises(ValueError, match=r"b\.npz: .*no array vertices and no array faces; there are points"):
        read_mesh(tmp_path / "b.npz")


def pcd_header(data, points, fields="x y z", sizes="4 4 4", types="F F F", counts="1 1 1"):
    """The header of a .pcd file, by default of three float32 coordinates."""
    return (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {types}\nCOUNT {counts}\nWIDTH {points}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {data}\n"
    )


def test_pcd_text_and_binary_with_other_fields(write):
    points = np.random.default_rng(0).random((5, 3)).astype("<f4")
    text = pcd_header("ascii", 5) + "".join("{} {} {}\n".format(*map(repr, map(float, p))) for p in points)
    assert np.array_equal(read_cloud(write("a.pcd", text)), points)
    dtype = np.dtype([("rgb", "<u4"), ("z", "<f4"), ("n", "<f4", (2,)), ("x", "<f4"), ("y", "<f8")])
    rows = np.zeros(5, dtype)
    rows["x"], rows["y"], rows["z"] = points.T
    header = pcd_header("binary", 5, "rgb z n x y", "4 4 4 4 8", "U F F F F", "1 1 2 1 1")
    assert np.array_equal(read_cloud(write("b.pcd", header.encode() + rows.tobytes())), points)
    header = pcd_header("ascii", 5, "rgb z n x y", "4 4 4 4 8", "U F F F F", "1 1 2 1 1")
    lines = "".join(f"7 {z!r} 8 9 {x!r} {y!r}\n" for x, y, z in points.astype(float).tolist())
    assert np.array_equal(read_cloud(write("c.pcd", header + lines)), points)


def test_h5_and_npy_clouds(tmp_path):
    points = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = points
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points)
    for name in ("a.h5", "a.npy", "a.npz"):
        assert np.array_equal(read_cloud(tmp_path / name), points)


BAD_CLOUDS = [
    ("a.pcd", pcd_header("ascii", 3) + "0 0 0\n1 1 1\n", "it ends early: 3 points are announced, 2 lines follow"),
    ("a.pcd", pcd_header("ascii", 1) + "0 0\n", "point 1 has 2 numbers instead of 3"),
    ("a.pcd", pcd_header("binary", 3).encode() + b"\0" * 20, "it ends early"),
    ("a.pcd", pcd_header("binary_compressed", 3), "DATA binary_compressed: ascii and binary are read"),
    ("a.pcd", pcd_header("ascii", 1, fields="x y w") + "0 0 0\n", "x, y and z are needed"),
    ("a.pcd", pcd_header("ascii", 1) + "0 nan 0\n", "point 1 has a coordinate that is no finite number"),
    ("a.pcd", pcd_header("ascii", 0), "no points"),
    ("a.pcd", pcd_header("ascii", "x"), "POINTS x: 1 whole number needed"),
    ("a.pcd", "VERSION 0.7\nFIELDS x y z\n", "its header has no SIZE, TYPE, POINTS, DATA"),
    ("a.pcd", pcd_header("ascii", 1, sizes="3 4 4") + "0 0 0\n", "TYPE F of SIZE 3"),
    ("a.h5", b"no hdf5", ""),
    ("a.npy", b"\x93NUMPY", ""),
    ("a.npy", b"", ""),
    ("a.xyz", "0 0 0", "clouds are .pcd, .h5, .npy, .ply, .npz"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_CLOUDS)
def test_a_bad_cloud_is_refused_in_one_line(write, name, content, message):
    with pytest.raises(ValueError, match=r"^a\.") as caught:
        read_cloud(write(name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cloud_that_wants_pickle_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match=r"a\.npy: .*allow_pickle"):
        read_cloud(tmp_path / "a.npy")


def test_the_real_scans_and_meshes_are_read(real_data):
    scans = {path.stem: read_cloud(path) for path in (real_data / "pcc" / "pcn-sample" / "partial").glob("*.pcd")}
    assert len(scans) == 6
    assert len(scans["pcn-airplane"]) == 753
    assert max(np.abs(cloud).max() for cloud in scans.values()) < 1
    original = sorted((real_data / "pcc" / "sweethome3d-obj").glob("*/test/*.obj"))[:6]
    for path in original:
        text, packed = (
            read_mesh(path),
            read_mesh(real_data / "pcc" / "sweethome3d" / "/".join(path.parts[-3:-1]) / f"{path.stem}.npz"),
        )
        np.testing.assert_allclose(text.vertices.max(0), packed.vertices.max(0), rtol=1e-5, atol=1e-4)
        assert abs(len(text.faces) - len(packed.faces)) <= 0.02 * len(packed.faces)

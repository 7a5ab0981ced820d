"""What holds for every reader of other people's files, whatever their format."""

import gzip
import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import soundfile

from benchmark.files import is_companion
from tasks.fairseq_data import read_dictionary
from tasks.folders import files_in, folders_in, name_below, named
from tasks.forecasting.series import read_series
from tasks.language_modeling.data import find_books
from tasks.language_modeling.tokens import byte_characters, load_gpt2
from tasks.point_cloud_completion.meshes import read_cloud, read_mesh
from tasks.point_cloud_completion.sources import find_shapes
from tasks.summarization.sources import read_multi_news, read_own, read_qmsum, read_scitldr
from tasks.text_files import parse_json, split_lines
from tasks.text_to_speech import ljspeech
from tasks.text_to_speech.audio import read_wav

OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 \\\n4\n"
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
    "property list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
)
PCD = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n0 0 0\n1 2 3\n"
SERIES = "date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,3\n"
MEETING = json.dumps(
    {
        "meeting_transcripts": [{"speaker": "A", "content": "hello"}],
        "general_query_list": [{"query": "All?", "answer": "Yes."}],
        "specific_query_list": [],
    }
)


def write(path, content):
    """Writes bytes or text to a new file, whose folders are made; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mesh_of(path):
    """Vertices and faces as lists."""
    return [array.tolist() for array in read_mesh(path)]


def own_pairs(path):
    """Documents and references of own summaries whose three parts are this file."""
    for part in ("train", "val", "test"):
        (path.parent / f"{part}{path.suffix}").write_bytes(path.read_bytes())
    return [pair[1:3] for pair in read_own(path.parent, "source", "target").parts["test"]]


def shapenet(path):
    """The names in ShapeNet-55's lists, of which this file is the one for training."""
    write(path.parent / "test.txt", "1-a.npy\n")
    for index in range(20):
        write(path.parent / "shapenet_pc" / f"1-{chr(97 + index)}.npy", b"")
    return [shape.name for shapes in find_shapes(path.parent).parts.values() for shape in shapes]


def table_rows(path):
    """The rows of a table of transcripts, whose recordings are there."""
    for name in ("a", "b"):
        write(path.parent / "wavs" / f"{name}.wav", b"")
    return ljspeech.read_table(path)


def merges(path):
    """What GPT-2's tokeniser makes of a text."""
    pieces = [*byte_characters().values(), "th", "the", "<|endoftext|>"]
    write(path.parent / "vocab.json", json.dumps({piece: number for number, piece in enumerate(pieces)}))
    return load_gpt2(path.parent, "lm/gpt2").encode([b"the thing"])[0].tolist()


# name of the file -> (its content, how it is read)
TEXTS = {
    "a.obj": (OBJ, mesh_of),
    "a.off": (OFF, mesh_of),
    "a.ply": (PLY, mesh_of),
    "a.pcd": (PCD, lambda path: read_cloud(path).tolist()),
    "a.csv": (SERIES, lambda path: read_series(path).values.tolist()),
    "a.txt": ("1,2\n3,4\n5,6\n", lambda path: read_series(path).values.tolist()),
    "own/train.csv": ("source,target\na,b\nc,d\n", own_pairs),
    "own/train.jsonl": ('{"source": "a", "target": "b"}\n{"source": "c", "target": "d"}\n', own_pairs),
    "shapes/train.txt": ("".join(f"1-{chr(97 + index)}.npy\n" for index in range(20)), shapenet),
    "clips/metadata.csv": ("a|some words\nb|more words\n", table_rows),
    "gpt2/merges.txt": ("#version: 0.2\nt h\nth e\n", merges),
    "lm/dict.txt": ("the 3\ncat 2\n", lambda path: read_dictionary(path, "lm/dict.txt")),
}
every_text = pytest.mark.parametrize("name", TEXTS)


@every_text
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n \t\n"], ids=["LF", "CR LF", "CR", "lines of spaces"])
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(name, mark, end, tmp_path):
    content, read = TEXTS[name]
    plain = read(write(tmp_path / "plain" / name, content))
    if end == "\n \t\n" and name.endswith(("obj", "pcd", "ply")):
        content, end = f"{content} \t\n", "\n"  # not within a header, or behind a line that goes on
    assert read(write(tmp_path / "odd" / name, mark + content.replace("\n", end).encode())) == plain


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0c", "\x1c", "\x0b"])
def test_no_other_character_ends_a_line(character, tmp_path):
    assert split_lines(f"a{character}b") == [f"a{character}b"]
    comment = f"# a{character}v 9 9 9\n"
    assert mesh_of(write(tmp_path / "a.obj", comment + OBJ)) == mesh_of(write(tmp_path / "b.obj", OBJ))
    assert mesh_of(write(tmp_path / "a.off", OFF.replace("3 1 0\n", f"3 1 0 # {character}7 7 7\n")))[0][0] == [0, 0, 0]
    assert len(read_cloud(write(tmp_path / "a.pcd", f"# a{character}DATA binary\n{PCD}"))) == 2
    ply = PLY.replace("element vertex", f"comment a{character}element face 9\nelement vertex")
    assert mesh_of(write(tmp_path / "a.ply", ply)) == mesh_of(write(tmp_path / "b.ply", PLY))
    lines = f'{{"source": "a{character}b", "target": "c"}}\n'.encode()
    if character > " ":  # JSON writes control characters with a backslash
        assert own_pairs(write(tmp_path / "json" / "train.jsonl", lines))[0][0] == (f"a{character}b",)
    table = f"source,target\na{character}b,c\n"
    assert own_pairs(write(tmp_path / "csv" / "train.csv", table))[0][0] == (f"a{character}b",)
    clips = f"a|one{character}two\nb|three\n"
    assert table_rows(write(tmp_path / "clips" / "metadata.csv", clips))[0].text == f"one{character}two"


@pytest.mark.parametrize("name", ["a.obj", "a.off", "a.ply", "a.pcd"])
def test_a_name_in_latin_1_is_read_over(name, tmp_path):
    content, read = TEXTS[name]
    notes = {"a.obj": "g K\xfcche\n# \xfc\n", "a.off": "# \xfc\n", "a.pcd": "# \xfc\n"}
    if name == "a.ply":
        odd = content.replace("element vertex", "comment K\xfcche\nelement vertex")
    else:
        odd = notes[name] + content
    assert read(write(tmp_path / "odd" / name, odd.encode("latin-1"))) == read(write(tmp_path / name, content))


def good_roots(root):
    """A data root of every layout, and for each the function whose result must stay."""
    for part in ("train", "validation", "test"):
        write(root / "lm" / part / "a.txt", f"a book of {part}")
        write(root / "pcc" / "meshes" / "chair" / part / "a.off", OFF)
    for part in ("train", "val", "test"):
        write(root / "sum" / "qmsum" / part / "a.json", MEETING)
        write(root / "pcc" / "pcn" / part / "complete" / "1" / "a.pcd", PCD)
        write(root / "pcc" / "pcn" / part / "partial" / "1" / "a" / "00.pcd", PCD)
        write(root / "own" / f"{part}.csv", "source,target\na,b\n")
    write(root / "tts" / "L" / "metadata.csv", "a|b\n")
    return {
        "lm": lambda: find_books(root),
        "meshes": lambda: find_shapes(root / "pcc" / "meshes"),
        "pcn": lambda: find_shapes(root / "pcc" / "pcn"),
        "qmsum": lambda: read_qmsum(root),
        "own": lambda: read_own(root / "own", "source", "target"),
        "tts": lambda: ljspeech.find_folder(root, None),
    }


@pytest.mark.parametrize("layout", ["lm", "meshes", "pcn", "qmsum", "own", "tts"])
def test_companion_files_of_other_systems_are_no_data(layout, tmp_path):
    """In every folder: a companion of each file and folder, and the files that systems leave there."""
    read = good_roots(tmp_path)[layout]
    before = read()
    stub = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            write(path.with_name(f"._{path.name}"), stub)
            for name in (".DS_Store", "Thumbs.db", "desktop.ini", f"__MACOSX/{path.name}", f".hidden/{path.name}"):
                write(path.with_name(name) if "/" not in name else path.parent / name, stub)
        else:
            for name in (f"._{path.name}", "__MACOSX", "@eaDir"):
                for inner in path.iterdir():
                    write(path.parent / name / inner.name, stub) if inner.is_file() else None
                    if inner.is_dir():
                        for file in inner.iterdir():
                            write(path.parent / name / inner.name / file.name, stub)
    assert read() == before


def test_folders_are_listed_by_name_without_companions(tmp_path):
    for name in (
        "b.TXT",
        "a.txt",
        "._a.txt",
        ".DS_Store",
        "THUMBS.DB",
        "Desktop.ini",
        "c.md",
        "folder.txt/x",
        "__MACOSX/x",
    ):
        write(tmp_path / name, b"")
    assert [path.name for path in files_in(tmp_path, ".txt")] == ["a.txt", "b.TXT", "folder.txt"]
    assert [path.name for path in files_in(tmp_path)] == ["a.txt", "b.TXT", "c.md"]
    assert [path.name for path in folders_in(tmp_path)] == ["folder.txt"]
    assert files_in(tmp_path / "nowhere") == folders_in(tmp_path / "nowhere") == []
    assert named(tmp_path, "b.txt") == tmp_path / "b.TXT"
    assert named(tmp_path, "d.txt") is None
    assert is_companion("ehthumbs.db")
    assert not is_companion("a._b")
    assert name_below(tmp_path / "a" / "b", tmp_path) == "a/b"
    assert name_below(tmp_path / "a" / "b" / "c", tmp_path / "x") == "b/c"


def test_endings_may_be_in_capitals(tmp_path):
    for part in ("train", "validation", "test"):
        write(tmp_path / "lm" / part / "A.TXT", f"a book of {part}")
        write(tmp_path / "own" / f"{part}.JSONL", '{"source": "a", "target": "b"}\n')
        write(tmp_path / "table" / f"{part}.CSV", "source,target\na,b\n")
    for part in ("train", "val", "test"):
        write(tmp_path / "sum" / "qmsum" / part / "A.JSON", MEETING)
    assert len(find_books(tmp_path).parts["train"]) == 1
    for folder in ("own", "table"):
        assert read_own(tmp_path / folder, "source", "target").parts["test"][0].references == ("b",)
    assert len(read_qmsum(tmp_path).parts["test"]) == 1
    assert len(read_series(write(tmp_path / "A.CSV", SERIES)).values) == 3
    assert len(read_series(write(tmp_path / "A.TXT", "1\n2\n3\n")).values) == 3
    write(tmp_path / "tts" / "wavs" / "a.WAV", b"")
    assert [row.name for row in ljspeech.read_table(write(tmp_path / "tts" / "metadata.csv", "a|some words\n"))] == [
        "a"
    ]


def test_a_folder_in_the_place_of_a_file_is_told_in_one_line(tmp_path):
    def refused(read, name):
        with pytest.raises(ValueError, match=rf"{name}: (is a directory; a file is needed|no such file)") as caught:
            read()
        assert str(tmp_path) not in str(caught.value)

    for part in ("train", "dev", "val", "test"):
        (tmp_path / "sum" / "scitldr" / f"{part}.jsonl").mkdir(parents=True)
        (tmp_path / "multi" / f"{part}.src").mkdir(parents=True)
    refused(lambda: read_scitldr(tmp_path), "sum/scitldr/train.jsonl")
    refused(lambda: read_multi_news(tmp_path / "multi"), "multi/train.src")
    (tmp_path / "s.csv").mkdir()
    refused(lambda: read_series(tmp_path / "s.csv"), "s.csv")
    (tmp_path / "dict.txt").mkdir()
    refused(lambda: read_dictionary(tmp_path / "dict.txt", "lm/dict.txt"), "lm/dict.txt")
    (tmp_path / "tts" / "metadata.csv").mkdir(parents=True)
    refused(lambda: ljspeech.read_table(tmp_path / "tts" / "metadata.csv"), "metadata.csv")
    (tmp_path / "a.off").mkdir()
    with pytest.raises(ValueError, match=r"^a\.off: can't be read as OFF: .*directory") as caught:
        read_mesh(tmp_path / "a.off")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "line 7: the key 'c' is there twice"),
        (f'{{"a": {"9" * 5000}}}', "line 7: a number of thousands of digits"),
        ("[" * 100_000, "line 7: JSON nested too deeply"),
        ('{"a": 1', "line 7, column 8: not valid JSON"),
        ('{"a":\n\n1,}', "line 9, column 3: not valid JSON"),
    ],
)
def test_faults_of_json_are_told_with_file_and_line(text, fault):
    with pytest.raises(ValueError, match=rf"^x\.jsonl, {fault}") as caught:
        parse_json(text, "x.jsonl", line=7)
    assert len(str(caught.value)) <= 300


def npy(shape, dtype="<f4", content=b""):
    """A .npy file with the header of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + content


def npz(**members):
    """A .npz file of these members, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def h5_of(shape):
    """An HDF5 file whose data set has this shape and no stored numbers."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset("data", shape, "f4", chunks=(1024, 3))
    return file.getvalue()


def wav_header(stated, *, rate=22_050, channels=1):
    """The header of a wav file of 16 bits, both of whose sizes are given."""
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(stated + 36, 2**32 - 1))
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", stated)
    )


def flac_of(frames):
    """A FLAC file whose header states this many samples."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(30_000), 22_050, format="FLAC")
    content = bytearray(file.getvalue())
    content[21] = content[21] & 0xF0 | frames >> 32  # 36 bits, from the middle of byte 21 on
    content[22:26] = (frames & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(content)


FEW = bytes(4000)
BINARY_PLY = PLY.replace("ascii", "binary_little_endian").partition("0 0 0\n")[0]
# name of the file -> (its content, how it is read); each states far more than it holds
PROMISES = {
    "shape.npy": (npy((10**10, 3), content=FEW), read_cloud),
    "no_numbers.npy": (npy((10**9, 3)), read_cloud),
    "digits.npy": (npy((3, 3)).replace(b"(3, 3), ", b"(" + b"9" * 40 + b",), "), read_cloud),
    "shape.npz": (npz(points=npy((10**10, 3), content=FEW)), read_cloud),
    "mesh.npz": (npz(vertices=npy((10**10, 3), content=FEW), faces=npy((1, 3), "<i4", bytes(12))), read_mesh),
    "shape.h5": (h5_of((10**9, 3)), read_cloud),
    "points.pcd": (PCD.replace("POINTS 2", "POINTS 9999999999"), read_cloud),
    "binary.pcd": (PCD.replace("POINTS 2", "POINTS 9999999999").replace("ascii", "binary"), read_cloud),
    "count.pcd": (PCD.replace("WIDTH", "COUNT 1 1 99999999999\nWIDTH").replace("x y z", "x y q"), read_cloud),
    "off.off": (OFF.replace("3 1 0", "9999999999 9999999999 0"), read_mesh),
    "corners.off": (OFF.replace("3 0 1 2", "9999999999 0 1 2"), read_mesh),
    "negative.off": (OFF.replace("3 1 0", "-3 7 0"), read_mesh),
    "ascii.ply": (PLY.replace("vertex 3", "vertex 9999999999"), read_mesh),
    "binary.ply": (BINARY_PLY.replace("vertex 3", "vertex 9999999999").encode() + FEW, read_mesh),
    "faces.ply": (BINARY_PLY.replace("face 1", "face 9999999999").encode() + FEW, read_mesh),
    "corners.ply": (
        BINARY_PLY.replace("uchar", "uint").encode() + bytes(36) + struct.pack("<I3i", 2**32 - 1, 0, 1, 2),
        read_mesh,
    ),
    "long.flac": (flac_of(2**36 - 1), lambda path: read_wav(path, path.name)),
    "rate.wav": (wav_header(44_100, rate=22_051) + bytes(44_100), lambda path: read_wav(path, path.name)),
    "fast.wav": (wav_header(44_100, rate=2**31 - 1) + bytes(44_100), lambda path: read_wav(path, path.name)),
}


@pytest.mark.parametrize("name", PROMISES)
def test_a_header_that_promises_gigabytes_is_refused_before_memory_is_taken(name, tmp_path):
    content, read = PROMISES[name]
    path = write(tmp_path / name, content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^{name}: ") as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**26
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    """Its header is true: some kilobytes hold all these zeros."""
    monkeypatch.setattr("tasks.array_files.MOST_BYTES", 2**20)
    path = write(tmp_path / "a.npz", npz(points=npy((2**17, 3), content=bytes(12 * 2**17))))
    assert path.stat().st_size < 2**14
    with pytest.raises(ValueError, match=r"^a\.npz: .* it promises 1,\d+,\d+ bytes; at most 1,048,576 are read"):
        read_cloud(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_that_unfolds_at_once_is_refused_unread(method, tmp_path):
    """It states few bytes; zipfile would expand all of them before it cuts them to that size."""
    file, size = io.BytesIO(), 2**22
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("points.npy", npy((size // 12, 3), content=bytes(size)))
    stated = len(npy((size // 12, 3))) + size
    path = write(tmp_path / "a.npz", file.getvalue().replace(struct.pack("<L", stated), struct.pack("<L", 1000)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^a\.npz: .*'points' is packed by another method than deflate"):
            read_cloud(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("times", [1, 2])
def test_an_h5_bomb_is_refused(times, tmp_path):
    """HDF5 unpacks a chunk to whatever it gives, and then takes the first bytes; a chunk may also be packed twice."""
    shape, packed = (256, 3), bytes(2**23)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(shape)
        for _ in range(times):
            properties.set_deflate(9)
            packed = zlib.compress(packed, 9)
        space = h5py.h5s.create_simple(shape)
        made = h5py.h5d.create(file.id, b"data", h5py.h5t.IEEE_F32LE, space, properties)
        made.write_direct_chunk((0, 0), packed)
    with pytest.raises(
        ValueError, match=r"^a\.h5: .*(unpack to more than the 3,072 bytes|by another method than gzip)"
    ):
        read_cloud(tmp_path / "a.h5")


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": (7, 3)}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_h5_in_chunks_is_read(options, shuffle, tmp_path):
    points = np.random.default_rng(0).random((100, 3), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=points, shuffle=shuffle, fletcher32=True, **options)
    assert np.array_equal(read_cloud(tmp_path / "a.h5"), points)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.forecasting.series.MOST_BYTES", 1000)
    path = write(tmp_path / "a.csv.gz", gzip.compress(SERIES.encode() * 100))
    with pytest.raises(ValueError, match=r"a\.csv\.gz: holds more than 1,000 bytes of text"):
        read_series(path)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_an_h5_whose_numbers_lie_elsewhere_is_refused(kind, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.ones((5, 3), "f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file["data"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "data")
        elif kind == "soft link":
            file["data"] = h5py.SoftLink("/data")
        elif kind == "external storage":
            file.create_dataset("data", (5, 3), "f4", external=[(str(write(tmp_path / "x", bytes(60))), 0, 60)])
        else:
            layout = h5py.VirtualLayout((5, 3), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", shape=(5, 3))
            file.create_virtual_dataset("data", layout)
    with pytest.raises(ValueError, match=r"^a\.h5: .*(a link to another place|lies in another file)"):
        read_cloud(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "line", ["../../secret-x.npy", "/etc/pass-wd.npy", "..", "1-a.npy/../../b", "C:\\1-a.npy", "1-\0.npy"]
)
def test_a_list_that_leaves_its_folder_is_refused(line, tmp_path):
    write(tmp_path / "secret-x.npy", b"")
    path = write(tmp_path / "shapes" / "train.txt", line + "\n")
    with pytest.raises(ValueError, match=r"^shapes/train\.txt: line 1: no cloud"):
        shapenet(path)


def test_a_link_out_of_the_data_root_is_only_read(tmp_path):
    """People keep data on other disks; nothing is written through such a link, and its target stays."""
    outside = write(tmp_path / "outside" / "a.txt", "a book elsewhere")
    for part in ("train", "validation"):
        write(tmp_path / "root" / "lm" / part / "a.txt", f"a book of {part}")
    (tmp_path / "root" / "lm" / "test").mkdir()
    os.symlink(outside, tmp_path / "root" / "lm" / "test" / "a.txt")
    (document,) = find_books(tmp_path / "root").parts["test"]
    assert document.name == "lm/test/a.txt"
    assert outside.read_text() == "a book elsewhere"


@pytest.mark.parametrize("layout", ["lm", "meshes", "pcn", "qmsum"])
@pytest.mark.parametrize("target", ["nowhere", "itself", "a folder"])
def test_what_looks_like_data_and_is_no_file_is_never_left_out_in_silence(layout, target, tmp_path):
    read = good_roots(tmp_path)[layout]
    listed = {"lm": "lm/train/b.txt", "qmsum": "sum/qmsum/train/b.json", "meshes": "pcc/meshes/chair/train/b.off"}
    path = tmp_path / listed.get(layout, "pcc/pcn/train/partial/1/a/01.pcd")
    if target == "a folder":
        path.mkdir()
    else:
        os.symlink(path if target == "itself" else tmp_path / "nowhere", path)
    if (layout, target) == ("pcn", "a folder"):  # its files are read on demand
        read = lambda: read_cloud(path, "train/partial/1/a/01.pcd")  # noqa: E731
    with pytest.raises(ValueError, match=rf"{path.name}: .*(no such file|can't be read|directory)") as caught:
        read()
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)

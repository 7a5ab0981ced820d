"""fairseq's binarised texts as a data source, written here byte by byte as its format says."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest

from tasks.fairseq_data import read_binarised, read_dictionary
from tasks.language_modeling.binarised import LineCounter, load_binarised

LINES = {
    "train": ["the cat saw the naïve dog", "", "the dog ran", "a cat and a dog ran"] * 12,
    "valid": ["the cat ran", "a dog"] * 12,
    "test": ["the dog saw a cat", "", "", "cat"] * 12,
}
ALL = {"train": None, "validation": None, "test": None}


def write_index(path, sizes, *, code=8, itemsize=2, version=1):
    offsets = np.concatenate([[0], np.cumsum(sizes[:-1])]).astype("<i8") * itemsize
    header = b"MMIDIDX\0\0" + struct.pack("<QBQ", version, code, len(sizes))
    path.write_bytes(header + np.array(sizes, "<i4").tobytes() + offsets.tobytes())


def write_bin(folder, lines, words):
    """A folder as fairseq-preprocess --only-source leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.txt").write_text("".join(f"{word} 5\n" for word in words), encoding="utf-8")
    number = {word: 4 + place for place, word in enumerate(words)}
    for part, texts in lines.items():
        items = [[*(number.get(word, 3) for word in text.split()), 2] for text in texts]
        np.array([token for item in items for token in item], "<u2").tofile(folder / f"{part}.bin")
        write_index(folder / f"{part}.idx", [len(item) for item in items])


@pytest.fixture
def lm_bin(tmp_path):
    root = tmp_path / "data"
    write_bin(root / "lm", LINES, sorted({word for line in LINES["train"] for word in line.split()}))
    return root


def test_bytes_and_words_are_those_of_the_text_however_it_is_cut(lm_bin):
    texts = load_binarised(lm_bin, "fairseq", ALL)
    for part, prefix in (("train", "train"), ("test", "test")):
        text = "".join(line + "\n" for line in LINES[prefix])
        tokens = texts.parts[part].tokens
        for cuts in ([0, len(tokens)], [0, 1, 2, 9, 10, len(tokens)], range(len(tokens) + 1)):
            slices = [(tokens[a:b], int(tokens[a - 1]) if a else None) for a, b in pairwise(cuts)]
            assert sum(texts.counter.num_bytes(*one) for one in slices) == len(text.encode())
            assert sum(texts.counter.num_words(*one) for one in slices) == len(text.split())
        assert texts.sizes[part]["bytes"] == len(text.encode())


@pytest.mark.parametrize(
    ("kind", "pieces", "text"),
    [
        ("fairseq_subword_nmt", ["th@@", "e", "do@@", "g", "ran", "</s>", "</s>", "a", "</s>"], "the dog ran\n\na\n"),
        ("fairseq_sentencepiece", ["▁the", "▁do", "g", "▁", "ran", "</s>", "</s>", "▁é", "</s>"], "the dog ran\n\né\n"),
    ],
)
def test_pieces_are_joined_as_their_kind_says(kind, pieces, text):
    words = ("<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(piece for piece in pieces if piece != "</s>"))
    tokens = np.array([words.index(piece) for piece in pieces])
    counter = LineCounter(words, kind)
    assert counter.num_bytes(tokens) == len(text.encode())
    assert counter.num_words(tokens, None) == len(text.split())


def test_a_model_trains_and_is_scored_on_it(lm_bin, make_task, sites):
    task = make_task(lm_bin, data={"tokens": "fairseq", "context_length": 8})
    blocks = task.splits.test
    assert sum(len(block.tokens) for block in blocks) == sum(len(line.split()) + 1 for line in LINES["test"])
    batch = task.collate(list(blocks)[:3])
    assert batch.inputs[:, 0].tolist() == [2, 2, 2]  # </s>, as fairseq's language models begin
    columns = task.score(task.build_model(sites()).eval(), batch)
    assert set(task.metrics) == {"loss", "perplexity", "bits_per_byte", "word_perplexity"}
    assert int(columns["num_bytes"].sum()) > 0
    assert task.splits.name == "fairseq"
    assert task.splits.embedded is False


def test_without_the_text_there_are_no_bits_per_byte(tmp_path, make_task, sites):
    write_bin(tmp_path / "data", LINES, ["the", "cat", "ran"])  # the data root itself has dict.txt; "dog" is <unk>
    task = make_task(tmp_path / "data", data={"tokens": "fairseq", "context_length": 8})
    assert set(task.metrics) == {"loss", "perplexity", "word_perplexity"}
    reason = "36 of 120 tokens of the test part are <unk>, whose text is lost"
    assert task.splits.details["no_bits_per_byte"] == reason
    model = task.build_model(sites()).eval()
    assert "num_bytes" not in task.score(model, task.collate(list(task.splits.test)[:2]))
    assert all("num_bytes" not in columns for columns in task.controls().values())
    assert all(row["bits_per_byte"] is None for row in task.curves(model)["loss_by_length"])


def test_a_dictionary_of_codes_has_no_text(tmp_path):
    lines = {part: ["262 318 50 9", "7 262"] * 9 for part in LINES}
    write_bin(tmp_path / "lm", lines, ["262", "318", "50", "9", "7"])
    assert "codes of a BPE" in load_binarised(tmp_path, "fairseq", ALL).bytes_unknown


def test_a_limit_takes_whole_lines_from_the_middle(lm_bin):
    whole = load_binarised(lm_bin, "fairseq", ALL)
    limited = load_binarised(lm_bin, "fairseq", ALL | {"train": 200})
    size = limited.sizes["train"]
    assert size["whole"] is False
    assert 150 < size["bytes"] < 250
    found, everything = limited.parts["train"].tokens.tolist(), whole.parts["train"].tokens.tolist()
    start = next(i for i in range(1, len(everything)) if everything[i : i + len(found)] == found)
    assert everything[start - 1] == found[-1] == 2
    assert limited.fingerprint == whole.fingerprint


def test_the_fingerprint_follows_the_bytes(lm_bin):
    before = load_binarised(lm_bin, "fairseq", ALL).fingerprint
    path = lm_bin / "lm" / "test.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    assert load_binarised(lm_bin, "fairseq", ALL).fingerprint != before


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lm: (lm / "dict.txt").unlink(), "lm/dict.txt: no such file"),
        (lambda lm: (lm / "dict.txt").write_bytes(b"caf\xe9 3\n"), "lm/dict.txt, line 1: byte 0xe9 is not UTF-8"),
        (lambda lm: (lm / "dict.txt").write_text("cat 3\ndog\n"), "lm/dict.txt: line 2, 'dog', is not a word"),
        (lambda lm: (lm / "dict.txt").write_text("cat 3\ncat 2\n"), "lm/dict.txt: line 2: 'cat' is there already"),
        (
            lambda lm: (lm / "dict.txt").write_text("cat 3\n"),
            r"lm/train.bin: token \d+ is \d+, the dictionary has 5 words",
        ),
        (lambda lm: (lm / "valid.idx").unlink(), "lm/valid.idx: no such file"),
        (lambda lm: (lm / "test.bin").unlink(), "lm/test.bin: no such file"),
        (lambda lm: _cut(lm / "train.bin", 11), r"lm/train.bin: has 11 bytes, lm/train.idx states [\d,]+: cut off"),
        (lambda lm: _cut(lm / "train.idx", 12), "lm/train.idx: ends within its header, after 12 bytes"),
        (lambda lm: _cut(lm / "train.idx", 90), r"lm/train.idx: has 90 bytes, 48 items take [\d,]+: cut off"),
        (lambda lm: (lm / "train.idx").write_bytes(b"PK\3\4" + bytes(40)), "does not begin with MMIDIDX"),
        (lambda lm: (lm / "train.idx").write_bytes(b"TNTIDX\0\0" + bytes(40)), "--dataset-impl lazy or cached"),
        (lambda lm: write_index(lm / "train.idx", [3], code=6), "version 1 with tokens of type 6"),
        (lambda lm: write_index(lm / "train.idx", [3], version=2), "version 2 with tokens of type 8"),
        (lambda lm: write_index(lm / "train.idx", [3, -1]), "don't follow one another|damaged"),
        (lambda lm: write_index(lm / "train.idx", [3, 4], itemsize=4), "don't follow one another"),
        (lambda lm: (lm / "train.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 0)), "has no item"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(lm_bin, damage, message):
    damage(lm_bin / "lm")
    with pytest.raises(ValueError, match=message) as caught:
        load_binarised(lm_bin, "fairseq", ALL)
    assert "\n" not in str(caught.value)


def test_without_a_data_root_it_is_refused():
    with pytest.raises(ValueError, match="needs --data-root"):
        load_binarised(None, "fairseq", ALL)


@pytest.mark.parametrize(("code", "dtype"), [(1, "u1"), (4, "<i4"), (5, "<i8"), (9, "<u4")])
def test_other_widths_of_tokens_are_read(tmp_path, code, dtype):
    np.array([4, 5, 2, 6, 2], dtype).tofile(tmp_path / "train.bin")
    write_index(tmp_path / "train.idx", [3, 2], code=code, itemsize=np.dtype(dtype).itemsize)
    tokens, ends = read_binarised(tmp_path / "train", "train", vocab_size=7)
    assert tokens.tolist() == [4, 5, 2, 6, 2]
    assert ends.tolist() == [3, 5]


def test_an_overwriting_word_gets_a_further_number(tmp_path):
    (tmp_path / "dict.txt").write_text("cat 3\n<unk> 1 #fairseq:overwrite\nB C 2\n")
    assert read_dictionary(tmp_path / "dict.txt", "dict.txt") == (
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "cat",
        "<unk>",
        "B C",
    )

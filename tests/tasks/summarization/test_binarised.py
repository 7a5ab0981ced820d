"""fairseq's binarised pairs as a data source, written here byte by byte as the format says."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.summarization.binarised import PairTokens, find_languages
from tasks.summarization.data import load_summaries
from tasks.summarization.task import Summarization

from .conftest import settings

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PAIRS = {
    "train": [("the cat saw the dog", "cat saw dog"), ("", "nothing"), ("a dog ran far away", "dog ran")] * 8,
    "valid": [("the cat ran. the dog slept.", "cat ran. dog slept."), ("a dog", "dog")] * 3,
    "test": [("the dog saw a cat", "dog saw cat"), ("the zebra ran", "zebra ran"), ("cat", "")] * 2,
}
LANGUAGES = ("article", "summary")


def write_texts(prefix, items, dtype="<u2", code=8):
    """``<prefix>.bin`` and ``<prefix>.idx``: a header, the sizes of the items, and where each begins in bytes."""
    array = np.array([token for item in items for token in item], dtype)
    array.tofile(prefix.with_name(prefix.name + ".bin"))
    sizes = np.array([len(item) for item in items], "<i4")
    offsets = np.concatenate([[0], np.cumsum(sizes[:-1], dtype="<i8")]).astype("<i8") * array.itemsize
    header = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, code, len(items))
    prefix.with_name(prefix.name + ".idx").write_bytes(header + sizes.tobytes() + offsets.tobytes())


def write_pairs(folder, pairs=PAIRS, *, joined=False, languages=LANGUAGES, unknown=("zebra",), words=None):
    """A folder as ``fairseq-preprocess --source-lang article --target-lang summary`` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = [[[pair[side].split() for pair in rows] for rows in pairs.values()] for side in (0, 1)]
    known = [sorted({word for rows in side for line in rows for word in line} - set(unknown)) for side in sides]
    if joined:
        known = [sorted({*known[0], *known[1]})] * 2
    for side, language in enumerate(languages):
        own = words[side] if words else known[side]
        (folder / f"dict.{language}.txt").write_text("".join(f"{word} 5\n" for word in own), encoding="utf-8")
        number = {word: 4 + place for place, word in enumerate(own)}
        for part, rows in pairs.items():
            items = [[*(number.get(word, 3) for word in pair[side].split()), 2] for pair in rows]
            write_texts(folder / f"{part}.{languages[0]}-{languages[1]}.{language}", items)
    return folder


def loaded(folder, cache, **data):
    task = Summarization(settings(data={"name": "fairseq", "folder": str(folder), **data}))
    task.load_data(None, cache)
    return task


@pytest.mark.parametrize("joined", [True, False])
def test_tokens_are_those_of_the_dictionaries_and_texts_come_back(joined, tmp_path):
    data = loaded(write_pairs(tmp_path / "pairs", joined=joined), tmp_path / "cache").data
    words = data.tokenizer.words
    assert len(set(words)) == len(words) == data.vocab_size
    for part, examples in (("valid", data.splits.validation), ("test", data.splits.test), ("train", data.splits.train)):
        assert len(examples) == len(PAIRS[part])
        for (source, target), example in zip(PAIRS[part], examples, strict=True):
            assert example.source[-1] == example.target[-1] == data.end == 2
            shown = [words[token] for token in (*example.source[:-1], 2, *example.target[:-1])]
            wanted = [*source.split(), "</s>", *target.split()]
            assert shown == ["<unk>" if word == "zebra" else word for word in wanted]
    first, second, third = data.splits.test[:3]
    assert first.pair.documents == ("the dog saw a cat",)
    assert second.pair.documents == ("the ran",)
    assert [one.pair.references for one in (first, second, third)] == [("dog saw cat",), ("<<unk>> ran",), ("",)]
    assert data.splits.details["parts"]["test"]["unknown_words_of_summaries"] == 2
    assert (data.splits.name, data.splits.embedded) == ("pairs", False)


def test_a_word_has_one_number_in_both_dictionaries(tmp_path):
    """Without --joined-dictionary "dog" has two numbers in the files and one here, so that both sides can share embeddings."""
    data = loaded(write_pairs(tmp_path / "pairs"), tmp_path / "cache").data
    example = data.splits.test[0]
    dog = data.tokenizer.words.index("dog")
    assert example.source[1] == example.target[0] == dog


def test_lengths_cut_at_the_end_and_limits_choose_evenly(tmp_path):
    folder = write_pairs(tmp_path / "pairs")
    task = loaded(folder, tmp_path / "cache", max_source_tokens=3, max_target_tokens=8, max_train=6)
    train = task.data.splits.train
    assert [example.pair.name for example in train] == [
        "train:1",
        "train:5",
        "train:9",
        "train:13",
        "train:17",
        "train:21",
    ]
    words = task.data.tokenizer.words
    assert [words[token] for token in train[0].source] == ["the", "cat", "</s>"]
    sizes = task.data.splits.details["parts"]["train"]
    assert sizes["source_longest"] == 3
    assert sizes["source_tokens_cut"] > 0
    again = loaded(folder, tmp_path / "cache", max_source_tokens=3, max_target_tokens=8, max_train=6)
    assert np.array_equal(again.data.splits.train[0].source, train[0].source)


JOINS = [
    ("fairseq", ["the", "dog", "ran"], "the dog ran"),
    ("fairseq_subword_nmt", ["th@@", "e", "do@@", "g", "ran@@"], "the dog ran"),
    ("fairseq_sentencepiece", ["▁the", "▁do", "g", "▁", "ran"], "the dog ran"),
]


@pytest.mark.parametrize(("kind", "pieces", "text"), JOINS)
def test_pieces_are_joined_as_their_kind_says(kind, pieces, text):
    tokens = PairTokens((*SPECIAL, *pieces), kind)
    numbers = np.array([0, 2, 1, *range(4, 4 + len(pieces)), 2])
    assert tokens.decode(numbers).decode() == text


def test_codes_of_gpt2_become_their_bytes(tmp_path):
    """A vocabulary of six pieces in GPT-2's format; a dictionary holds their numbers as words."""
    pieces = ["Ġ", "c", "a", "t", "ca", "cat", "<|endoftext|>"]
    (tmp_path / "root" / "lm" / "gpt2").mkdir(parents=True)
    from tasks.language_modeling.tokens import byte_characters

    alphabet = sorted(byte_characters().values())
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*alphabet, *pieces]))}
    (tmp_path / "root" / "lm" / "gpt2" / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "root" / "lm" / "gpt2" / "merges.txt").write_text("#version: 0.2\nc a\nca t\n", encoding="utf-8")
    codes = [str(vocabulary[piece]) for piece in ("cat", "Ġ", "a")]
    line = " ".join(codes)
    pairs = {part: [(line, codes[0])] * 4 for part in PAIRS}
    others = [str(vocabulary[piece]) for piece in "bdefghijklmnop"]
    dictionary = [*codes, *others, "madeupword0000"]
    folder = write_pairs(tmp_path / "root" / "sum" / "news", pairs, words=[dictionary, dictionary])
    task = Summarization(settings(data={"name": "fairseq_gpt2", "folder": "news"}))
    task.load_data(tmp_path / "root", tmp_path / "cache")
    assert task.data.splits.test[0].pair.documents == ("cat a",)
    assert task.data.splits.test[0].pair.references == ("cat",)
    for name, root, reason in (
        ("fairseq", tmp_path / "root", "holds numbers, the codes of a BPE; data.name fairseq_gpt2"),
        ("fairseq_gpt2", None, r"needs a data root with lm/gpt2"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_summaries(settings(data={"name": name, "folder": str(folder)}).data, root, tmp_path / "cache")
    words = write_pairs(tmp_path / "words")
    with pytest.raises(ValueError, match=r"dict\.article\.txt: holds words, no codes of GPT-2"):
        load_summaries(
            settings(data={"name": "fairseq_gpt2", "folder": str(words)}).data, tmp_path / "root", tmp_path / "cache"
        )


def test_a_model_trains_generates_and_is_scored_on_it(tmp_path):
    task = loaded(write_pairs(tmp_path / "pairs"), tmp_path / "cache")
    torch.manual_seed(0)
    model = task.build_model(AttentionSites("lavo", "causal_cross", {}))
    batch = task.collate(task.data.splits.train[:4])
    assert batch.inputs[:, 0].tolist() == [2] * 4
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss, count = task.loss(model, batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach() / count))
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        columns = task.score(model.eval(), task.collate(task.data.splits.test[:6]))
    assert columns["rouge1"].shape == (6,)
    assert torch.isfinite(columns["nats"]).all()
    lead, constant = task.controls().values()
    assert constant["rouge1"].max() > 0  # training pairs have no texts here, so the control comes from their tokens
    assert lead["rouge1"][0] == pytest.approx(
        100 * 2 * 3 / (5 + 3)
    )  # "the dog saw a cat" has the summary's three words


def test_a_generated_unknown_word_never_equals_that_of_a_reference():
    tokens = PairTokens((*SPECIAL, "ran"), "fairseq")
    assert tokens.decode(np.array([3, 4, 2])) == b" ran".strip()
    assert tokens.reference(np.array([3, 4])) == "<<unk>> ran"


def drop(name):
    return lambda folder: (folder / name).unlink()


def cut_file(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-2])


def shorten(folder):
    write_texts(folder / "valid.article-summary.summary", [[4, 2]])


def other_dictionary(folder):
    (folder / "dict.summary.txt").write_text("cat 5\n")


def second_pair(folder):
    write_pairs(folder, languages=("a", "b"))


FAULTS = {
    "no dictionary": (drop("dict.summary.txt"), "pairs/: one pair of binarised texts is expected .* found none"),
    "no index": (drop("train.article-summary.article.idx"), "found none"),
    "no test part": (
        drop("test.article-summary.article.bin"),
        r"pairs/test\.article-summary\.article\.bin: no such file",
    ),
    "two pairs": (second_pair, "found a-b, article-summary"),
    "a cut text": (cut_file("train.article-summary.summary.bin"), r"summary\.bin: has [\d,]+ bytes, .*states"),
    "a cut index": (cut_file("valid.article-summary.article.idx"), r"article\.idx: has"),
    "unequal numbers of items": (shorten, r"valid\.article-summary\.summary\.idx: 1 items beside 6 of"),
    "the dictionary of another run": (other_dictionary, r"summary\.bin: token .* the dictionary has 5 words"),
}


@pytest.mark.parametrize(("spoil", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_folder_is_one_line(spoil, reason, tmp_path):
    folder = write_pairs(tmp_path / "pairs")
    spoil(folder)
    with pytest.raises(ValueError, match=reason) as caught:
        loaded(folder, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_folder_and_data_root_the_message_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name fairseq: needs the folder that fairseq-preprocess wrote"):
        load_summaries(settings(data={"name": "fairseq"}).data, None, tmp_path)
    root = write_pairs(tmp_path / "root")
    assert find_languages(root) == LANGUAGES
    summaries = load_summaries(settings(data={"name": "fairseq"}).data, root, tmp_path / "cache")
    assert len(summaries.splits.test) == 6

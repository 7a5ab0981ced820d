"""Tokenisers give back every byte, and counts of bytes and words add up."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.language_modeling.tokens import (
    ByteTokenizer,
    TextCounter,
    byte_characters,
    load_bpe,
    load_gpt2,
    train_bpe,
    words_in,
)

SAMPLES = [
    "",
    "line\r\nline\n\rline\r",
    "two  spaces   three\t\ttabs",
    " leading and trailing \n",
    "emoji 👩‍👩‍👧 flags 🇫🇷",
    "combining e\u0301 a\u030a\u0323 and precomposed é å",
    "nul \x00 inside\x00\x00",
    "<|endoftext|> is text here, </s> too",
    "\ufeffbyte order mark, \u2028 line separator, \u00a0 no-break",
    "中文，العربية, ภาษาไทย",
]
TRAINING = ["the whale said the sea was deep and the old man was there\r\n" * 20, " naïve “quotes” — 👩‍👩‍👧 " * 10]


def encoded(texts):
    return [text.encode() for text in texts]


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    """Files of GPT-2's form, of a small vocabulary."""
    model = json.loads(train_bpe(encoded(TRAINING), 400).tokenizer.to_str())["model"]
    vocabulary = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    folder = tmp_path_factory.mktemp("gpt2")
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["bytes", "bpe", "gpt2"])
def tokenizer(request, gpt2_folder):
    if request.param == "bytes":
        return ByteTokenizer()
    return train_bpe(encoded(TRAINING), 400) if request.param == "bpe" else load_gpt2(gpt2_folder, "lm/gpt2")


@pytest.mark.parametrize("text", SAMPLES)
def test_tokens_give_back_the_text_byte_for_byte(tokenizer, text):
    (tokens,) = tokenizer.encode([text.encode()])
    assert tokenizer.decode(tokens) == text.encode()
    assert tokenizer.begin not in tokens
    assert len(tokens) == 0 or tokens.max() < tokenizer.vocab_size


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_survives(tokenizer, text):
    (tokens,) = tokenizer.encode([text.encode()])
    assert tokenizer.decode(tokens) == text.encode()


def test_empty_text_has_no_tokens(tokenizer):
    assert len(tokenizer.encode([b""])[0]) == 0


def test_bpe_joins_bytes_and_its_vocabulary_counts_the_begin_token():
    tokenizer = train_bpe(encoded(TRAINING), 400)
    text = TRAINING[0].encode()
    assert len(tokenizer.encode([text])[0]) < len(text) / 2
    assert tokenizer.vocab_size <= 400
    assert tokenizer.begin == tokenizer.vocab_size - 1


def test_bpe_is_the_same_when_trained_again_and_when_read_from_its_file(tmp_path):
    tokenizer = train_bpe(encoded(TRAINING), 400)
    (tmp_path / "bpe.json").write_text(tokenizer.tokenizer.to_str(), encoding="utf-8")
    assert train_bpe(encoded(TRAINING), 400).fingerprint == tokenizer.fingerprint
    assert load_bpe(tmp_path / "bpe.json").fingerprint == tokenizer.fingerprint


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab é\n\t\r\x0b\u00a0👩"), cuts=st.lists(st.integers(0, 40)))
def test_bytes_and_words_of_adjacent_slices_add_up_to_the_whole(tokenizer, text, cuts):
    (tokens,) = tokenizer.encode([text.encode()])
    counter = TextCounter(tokenizer)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    slices = list(pairwise(edges))
    words = sum(counter.num_words(tokens[a:b], int(tokens[a - 1]) if a else None) for a, b in slices)
    assert sum(counter.num_bytes(tokens[a:b]) for a, b in slices) == len(text.encode())
    assert words == len(text.encode().split())


def test_a_token_that_is_half_a_character_counts_its_own_bytes():
    tokenizer = train_bpe([b"plain"], 258)  # no merges to speak of: tokens are bytes
    (tokens,) = tokenizer.encode(["é".encode()])
    assert [TextCounter(tokenizer).num_bytes(tokens[i : i + 1]) for i in range(2)] == [1, 1]


def test_byte_characters_are_those_of_gpt2():
    assert len(set(byte_characters().values())) == 256
    assert [byte_characters()[byte] for byte in (ord(" "), ord("\n"), ord("A"), 0, 255)] == ["Ġ", "Ċ", "A", "Ā", "ÿ"]


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("vocab.json", None, r"^lm/gpt2/vocab.json: no such file; tokens gpt2 need"),
        ("merges.txt", None, r"^lm/gpt2/merges.txt: no such file"),
        ("vocab.json", "{", r"^lm/gpt2/vocab.json, line 1, column 2: not valid JSON"),
        ("vocab.json", '{"a": 1}', r"^lm/gpt2/vocab.json: must map each piece to a number of its own"),
        ("vocab.json", '{"a": 0}', r"^lm/gpt2/vocab.json: lacks '<\|endoftext\|>'"),
        ("merges.txt", "#version: 0.2\nt h e\n", r"^lm/gpt2/merges.txt: line 2, 't h e', is not two pieces"),
    ],
)
def test_unusable_vocabulary_files_are_named(gpt2_folder, tmp_path, file, content, fault):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((gpt2_folder / name).read_bytes())
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=fault) as error:
        load_gpt2(tmp_path, "lm/gpt2")
    assert "\n" not in str(error.value)


def test_bytes_are_numbers_below_the_begin_token():
    (tokens,) = ByteTokenizer().encode([bytes(range(128))])
    np.testing.assert_array_equal(tokens, np.arange(128))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=3))
def test_words_give_back_the_texts_that_they_are_made_of(texts):
    tokenizer = words_in(encoded(texts), 10_000)
    for text, tokens in zip(texts, tokenizer.encode(encoded(texts)), strict=True):
        assert tokenizer.decode(tokens) == text.encode()
        assert tokenizer.begin not in tokens


def test_words_are_words_and_signs_with_the_space_before():
    tokenizer = words_in([b"The cow of Ada is lost. The goat is lost."], 300)
    assert tokenizer.pieces == (b" Ada", b" The", b" cow", b" goat", b" is", b" lost", b" of", b".", b"The", b"")
    assert (tokenizer.begin, tokenizer.vocab_size) == (9, 10)
    assert TextCounter(tokenizer).num_words(tokenizer.encode([b"The cow is lost. The"])[0], None) == 5


def test_words_beyond_the_training_part_or_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"data\.tokens words: ' horse' is not in the training part"):
        words_in([b"a cow"], 300).encode([b"a horse"])
    with pytest.raises(ValueError, match=r"has 3 different words, data\.vocab_size allows 2"):
        words_in([b"a cow."], 3)

"""Documents, limits, blocks and the cache."""

import numpy as np
import pytest

from tasks.language_modeling import data
from tasks.language_modeling.tokens import ByteTokenizer, TextCounter


def texts_of(root, part):
    return [path.read_bytes() for path in sorted((root / "lm" / part).glob("*.txt"))]


@pytest.mark.parametrize("tokens", ["bytes", "bpe"])
@pytest.mark.parametrize("length", [1, 7, 32, 100, 100_000])
def test_blocks_hold_every_token_once_and_never_cross_documents(data_root, make_task, tokens, length):
    task = make_task(data_root, data={"tokens": tokens, "vocab_size": 300})
    texts = texts_of(data_root, "test")
    blocks = list(task.blocks("test", length))
    assert b"".join(task.tokenizer.decode(block.tokens) for block in blocks) == b"".join(texts)
    assert all(1 <= len(block.tokens) <= length for block in blocks)
    assert sum(block.num_bytes for block in blocks) == sum(map(len, texts))
    assert sum(block.num_words for block in blocks) == sum(len(text.split()) for text in texts)
    short = [block for block in blocks if len(block.tokens) < length]
    assert len(short) <= len(texts)


def test_parts_are_the_books_of_their_folders(data_root, make_task):
    task = make_task(data_root)
    for part in data.PARTS:
        assert np.array(task.parts[part].tokens).tobytes() == b"".join(texts_of(data_root, part))
    assert (task.splits.name, task.splits.embedded) == ("books", False)


def test_tokens_are_memory_mapped_and_made_once(data_root, make_task, tmp_path):
    first = make_task(data_root, data={"tokens": "bpe", "vocab_size": 300})
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    second = make_task(data_root, data={"tokens": "bpe", "vocab_size": 300})
    assert isinstance(second.parts["train"].tokens, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
    assert first.splits.details == second.splits.details


def test_a_changed_book_changes_fingerprint_and_tokens(data_root, make_task):
    before = make_task(data_root).splits
    book = data_root / "lm" / "test" / "0-book.txt"
    book.write_bytes(b"X" + book.read_bytes())
    after = make_task(data_root).splits
    assert after.fingerprint != before.fingerprint
    assert after.test[0].tokens[0] == ord("X")


def test_embedded_data_is_the_same_each_time_and_split_by_module():
    first, second = data.find_modules(), data.find_modules()
    assert first == second
    names = [document.name for part in data.PARTS for document in first.parts[part]]
    assert len(names) == len(set(names))
    sizes = {part: sum(document.stop for document in first.parts[part]) for part in data.PARTS}
    assert sizes["train"] > 4 * sizes["test"] > 0
    assert sizes["validation"] > 100_000
    assert not any("site-packages" in name or "/test/" in name or name.startswith("/") for name in names)


def test_a_module_keeps_its_part_whatever_else_there_is():
    assert data._part_of("json/decoder.py") == data._part_of("json/decoder.py")
    parts = [data._part_of(f"module_{number}.py") for number in range(4000)]
    assert parts.count("test") == pytest.approx(500, abs=80)
    assert parts.count("validation") == pytest.approx(250, abs=60)


def documents(*sizes):
    return [data.Document(f"book {number}", None, 0, size) for number, size in enumerate(sizes)]


def test_no_limit_takes_everything():
    books = documents(100, 2000)
    assert data.limit_documents(books, None, 64) == books
    assert data.limit_documents(books, 2100, 64) == books


def test_a_limit_takes_the_middles_of_evenly_chosen_long_documents():
    excerpts = data.limit_documents(documents(1000, 10, 3000, 1000, 1000), 900, 300)
    assert [excerpt.name for excerpt in excerpts] == ["book 0", "book 2", "book 3"]
    assert [excerpt.stop - excerpt.start for excerpt in excerpts] == [300, 300, 300]
    assert (excerpts[1].start, excerpts[1].stop) == (1350, 1650)


def test_a_limit_below_one_excerpt_still_takes_one():
    (excerpt,) = data.limit_documents(documents(50, 80), 64, 4096)
    assert (excerpt.name, excerpt.stop - excerpt.start) == ("book 1", 64)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (1, 7), (2, 6), (3, 9)])
def test_an_excerpt_never_holds_part_of_a_character(tmp_path, start, stop):
    path = tmp_path / "book.txt"
    path.write_bytes("🐋🐋🐋".encode())
    text = data.read_document(data.Document("book", path, start, stop))
    assert text == b"" or text.decode() in "🐋🐋🐋"
    assert len(text) <= stop - start


def test_opening_block_of_a_document_starts_a_word():
    tokens = np.frombuffer(b"one twothree four", dtype=np.uint8)
    blocks = data.Blocks(data.TokenizedPart(tokens, np.array([7, 17])), 5, TextCounter(ByteTokenizer()))
    assert [bytes(block.tokens) for block in blocks] == [b"one t", b"wo", b"three", b" four"]
    assert [block.num_words for block in blocks] == [2, 0, 1, 1]
    assert [len(block.tokens) for block in blocks[1:3]] == [2, 5]
    assert blocks.clusters.tolist() == [0, 0, 1, 1]  # the documents


def remove_part(root):
    for path in (root / "lm" / "validation").iterdir():
        path.unlink()
    (root / "lm" / "validation").rmdir()


def rename_books(root):
    for path in (root / "lm" / "test").iterdir():
        path.rename(path.with_suffix(".md"))


def write(name, content):
    return lambda root: (root / "lm" / name).write_bytes(content)


def copy_to_test(root):
    (root / "lm" / "test" / "again.txt").write_bytes((root / "lm" / "train" / "1-book.txt").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (remove_part, r"^lm/validation: no such folder in the data root 'data'; one with \.txt files is needed$"),
        (rename_books, r"^lm/test: has no \.txt file; each part needs at least one book$"),
        (write("train/2-book.txt", b""), r"^lm/train/2-book\.txt: is empty; a book must have text"),
        (
            write("train/2-book.txt", b"caf\xe9 au lait"),
            r"^lm/train/2-book\.txt: byte 3, 0xe9, is not UTF-8; books must be",
        ),
        (
            copy_to_test,
            r"^lm/test/again\.txt: has the same text as lm/train/1-book\.txt; a book may be in one part only$",
        ),
    ],
)
def test_unusable_books_are_named_in_one_line(data_root, make_task, spoil, fault):
    spoil(data_root)
    with pytest.raises(ValueError, match=fault) as error:
        make_task(data_root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"context_length": 50_000},
            r"^lm/train: its longest text has \d+ tokens, a block of data.context_length 50000 needs",
        ),
        (
            {"context_length": 1_000},
            r"^lm/test: its longest text has \d+ tokens, eval.lengths 4 x data.context_length 1000",
        ),
        ({"tokens": "gpt2"}, r"^lm/gpt2/vocab.json: no such file; .*\(or choose tokens bytes or bpe\)$"),
    ],
)
def test_what_the_texts_cannot_give_is_refused_in_one_line(data_root, make_task, options, fault):
    with pytest.raises(ValueError, match=fault) as error:
        make_task(data_root, data=options)
    assert "\n" not in str(error.value)


def test_gpt2_tokens_need_a_data_root(make_task):
    with pytest.raises(
        ValueError, match=r"^data.tokens gpt2: needs a data root with lm/gpt2/vocab.json and merges.txt"
    ):
        make_task(None, data={"tokens": "gpt2"})


def test_tokenising_that_fails_midway_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    """The first group of documents is written before the second one turns out not to be lossless."""

    class Lossy(ByteTokenizer):
        def decode(self, tokens):
            return super().decode(tokens).replace(b"last", b"lost")

    books = []
    for number, text in enumerate((b"the first", b"the last")):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text)
        books.append(data.Document(f"book {number}", path, 0, len(text)))
    monkeypatch.setattr(data, "DOCUMENTS_AT_ONCE", 1)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match="book 1: its tokens don't give back its text"):
        data.tokenize(books, Lossy(), lambda name: cache / name)
    assert list(cache.iterdir()) == []
    part = data.tokenize(books, ByteTokenizer(), lambda name: cache / name)
    assert part.tokens.tobytes() == b"the firstthe last"
    assert sorted(path.name for path in cache.iterdir()) == ["ends.npy", "tokens.bin"]


def test_the_real_books_are_split_by_book_and_lossless(real_data, make_task):
    task = make_task(real_data, data={"context_length": 512})
    sizes = {part: len(task.parts[part].ends) for part in data.PARTS}
    assert sizes == {"train": 22, "validation": 3, "test": 5}
    assert np.array(task.parts["test"].tokens).tobytes() == b"".join(texts_of(real_data, "test"))
    assert sum(block.num_words for block in task.splits.test) == pytest.approx(665_618, rel=1e-3)

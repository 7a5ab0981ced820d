"""Reading, splitting, tokenising and cutting, and the messages about bad data."""

import json

import numpy as np
import pytest

from tasks.summarization.data import DataSettings, fair_shares, join, load_summaries
from tasks.summarization.docstrings import pairs_of_module, summary_of
from tasks.summarization.sources import (
    SCITLDR_DUPLICATES,
    multi_news_documents,
    read_multi_news,
    read_own,
    read_qmsum,
    read_scitldr,
)

from .conftest import write_lines

MODULE = '''
"""About the module."""

@cache
def first(a, b="é"):
    """Return the first of them. And e.g. more."""
    return a

class Second:
    """Holds two things
    together.

    More.
    """

    def method(self): "A docstring on its line."; return 1

    def silent(self):
        return 2

    def empty(self):
        """Has a docstring and no body."""
'''


def small(**values):
    """Small data settings."""
    return DataSettings.model_validate({"vocab_size": 300, "max_source_tokens": 64, "max_target_tokens": 16} | values)


def test_docstrings_are_taken_out_of_the_code_they_summarise():
    bodies = {pair.name.split()[-1]: pair.documents[0] for pair in pairs_of_module("m.py", MODULE)}
    assert bodies["first"] == "return a"
    assert bodies["Second"].startswith("def method(self):")
    pairs = {pair.name.split()[-1]: pair for pair in pairs_of_module("m.py", MODULE, signature=True)}
    assert pairs.keys() == bodies.keys() == {"first", "Second"}
    assert pairs["first"].references == ("Return the first of them.",)
    assert pairs["first"].documents == ('@cache\ndef first(a, b="é"):\n    return a',)
    assert pairs["Second"].references == ("Holds two things together.",)
    code = pairs["Second"].documents[0]
    assert code.startswith("class Second:\n")
    assert "docstring" not in code
    assert "Holds" not in code
    assert "return 1" in code
    assert "def silent" in code


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One, e.g. This, is it. Two.", "One, e.g. This, is it."),
        ("No full stop here\n\nNext.", "No full stop here"),
        ("Is this 3.5 of them? Yes.", "Is this 3.5 of them?"),
        ("Todo.", ""),
        ("", ""),
    ],
)
def test_a_summary_is_the_first_sentence(docstring, sentence):
    assert summary_of(docstring) == sentence


def test_more_of_a_docstring_on_request():
    text = "One is here. Two is\nhere.\n\nThree."
    assert summary_of(text, "paragraph") == "One is here. Two is here."
    assert summary_of(text, "docstring") == text


def test_docstrings_parts_share_no_module_and_no_code(tmp_path):
    splits = load_summaries(
        small(name="docstrings", max_train=60, max_validation=20, max_test=20), None, tmp_path
    ).splits
    assert splits.embedded
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [60, 20, 20]
    modules = [{pair.name.partition(":")[0] for pair in part.pairs} for part in parts]
    assert not (modules[0] & modules[1] | modules[0] & modules[2] | modules[1] & modules[2])
    codes = [pair.documents for part in parts for pair in part.pairs]
    assert len(set(codes)) == len(codes)


def test_everything_counts_and_no_document_is_lost():
    assert fair_shares([5, 100, 100], 45) == [5, 20, 20]
    assert fair_shares([5, 1, 2], 45) == [5, 1, 2]
    pieces = [np.arange(10), np.arange(10, 40), np.arange(40, 70)]
    blank = np.array([99])
    cut = join(pieces, blank, 100, 21, "documents").tolist()
    assert len(cut) == 21
    assert cut[-1] == 100
    assert 40 in cut  # the last document is there
    assert join(pieces, blank, 100, 21, "head").tolist() == [*range(10), 99, *range(10, 19), 100]
    assert join([], blank, 100, 21, "head").tolist() == [100]
    assert len(join([np.arange(2)] * 50, blank, 100, 21, "documents")) <= 21


def test_the_record_says_what_was_cut(own_task):
    details = own_task([("a b " * 200, "c d")]).data.splits.details
    assert details["parts"]["train"]["source_longest"] == 64
    assert 0 < details["parts"]["train"]["source_tokens_cut"] < 1
    assert details["parts"]["train"]["target_tokens_cut"] == 0
    assert "each document" in details["truncation"]


def test_a_document_of_100000_tokens_is_cut_by_the_rule(own_task):
    task = own_task([("x", "y z"), ("word " * 100_000, "a summary")])
    assert [len(example.source) for example in task.data.splits.test][1] == 64


def test_tokens_give_the_text_back(own_task):
    text = "tab\t, two  spaces, CR\r\nNUL\0 emoji 🙂 combining e\u0301, \u2028 and Thai สวัสดี"
    task = own_task([(text, "plain")], data={"max_source_tokens": 512})
    example = task.data.splits.train[0]
    assert example.source[-1] == task.data.end
    assert task.data.tokenizer.decode(example.source[:-1]).decode() == text


def test_summaries_that_rouge_can_not_read_are_refused(own_task):
    with pytest.raises(ValueError, match=r"would drop 100\.0% of the letters and digits"):
        own_task([("text", "สวัสดี")])
    own_task([("text", "สวัสดี")], data={"max_dropped_share": 1.0})


def test_half_a_surrogate_pair_is_refused(own_task):
    with pytest.raises(ValueError, match=r"U\+D800, half of a surrogate pair"):
        own_task([("a \ud800", "b")])


def parts_of(folder, ending, content):
    """Writes the same content as all three parts."""
    folder.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        (folder / f"{part}.{ending}").write_bytes(content)


def test_a_csv_may_hold_newlines_quotes_and_long_fields(tmp_path):
    long = "w " * 100_000
    text = f'\ufeffid,source,target\r\n1,"two\nlines, ""quoted""",short\r\n2,{long},""\r\n'
    parts_of(tmp_path / "own", "csv", text.encode())
    pairs = read_own(tmp_path / "own", "source", "target").parts["test"]
    assert [pair.documents[0] for pair in pairs] == ['two\nlines, "quoted"', long]
    assert [pair.references for pair in pairs] == [("short",), ("",)]


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("csv", b"", r"own/train.csv: is empty; a header"),
        ("csv", b'source,target\n"a\nb",c\n1,2,3\n', r"own/train.csv, line 4: 3 fields, the header has 2"),
        ("csv", b'source,target\na,b\n"open,c\n', r"own/train.csv, line 3: unexpected end of data"),
        ("csv", b"text,target\na,b\n", r"own/train.csv, line 2: has no 'source'; it has 'text', 'target'"),
        ("csv", b"source,target\na,caf\xe9\n", r"own/train.csv, line 2: byte 0xe9 is not UTF-8"),
        (
            "jsonl",
            b'{"source": "a", "target": "b"}\n{"source": "a", "tar',
            r"own/train.jsonl, line 2, column \d+: not valid JSON",
        ),
        ("jsonl", b"[1]\n", r"own/train.jsonl, line 1: a list; an object with 'source'"),
        ("jsonl", b'{"source": 3, "target": "b"}\n', r"line 1: 'source' must be a text or a list of texts, got '3'"),
        ("jsonl", b'{"source": "a", "target": []}\n', r"line 1: 'target' must be a text or a list of texts"),
        ("txt", b"", r"own: no file of the train part; one of train.jsonl, train.csv is needed"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, ending, content, message):
    parts_of(tmp_path / "own", ending, content)
    with pytest.raises(ValueError, match=message):
        read_own(tmp_path / "own", "source", "target")


def test_a_part_without_examples_is_refused(tmp_path):
    parts_of(tmp_path / "own", "jsonl", b"\n")
    with pytest.raises(ValueError, match="own: its train part has no example"):
        load_summaries(small(name="own", folder=str(tmp_path / "own")), None, tmp_path)


def test_multi_news_in_its_own_layout(tmp_path):
    source = "first NEWLINE_CHAR line ||||| second\u2028\x85 |||||\n\nonly last ||||| kept\n".encode()
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.src").write_bytes(source)
        (tmp_path / f"{part}.tgt").write_text("– one\n\nthree NEWLINE_CHAR four\n", encoding="utf-8")
    pairs = read_multi_news(tmp_path).parts["test"]
    assert [pair.documents for pair in pairs] == [("first\nline", "second"), (), ("only last", "kept")]
    assert [pair.references for pair in pairs] == [("one",), ("",), ("three\nfour",)]
    assert multi_news_documents("a ||||| b |||||") == multi_news_documents("a ||||| b") == ["a", "b"]
    (tmp_path / "val.tgt").write_text("one\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"val.tgt: 1 lines beside 3 of val.src"):
        read_multi_news(tmp_path)


def test_where_multi_news_is_missing_the_message_says_what_to_do(tmp_path):
    for settings in (small(name="multi_news"), small(name="multi_news", folder="nowhere")):
        with pytest.raises(ValueError, match="alexfabbri/multi_news"):
            load_summaries(settings, tmp_path, tmp_path)


def test_qmsum_questions_are_examples(tmp_path):
    meeting = {
        "meeting_transcripts": [{"speaker": "A", "content": "hello ."}],
        "general_query_list": [{"query": "All?", "answer": "They met."}],
        "specific_query_list": [{"query": "What?", "answer": ""}],
    }
    for part in ("train", "val", "test"):
        path = tmp_path / "sum" / "qmsum" / part / "m.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(meeting))
    pairs = read_qmsum(tmp_path).parts["test"]
    assert [(pair.question, pair.documents, pair.references) for pair in pairs] == [
        ("All?", ("A: hello .",), ("They met.",)),
        ("What?", ("A: hello .",), ("",)),
    ]
    path.write_text(json.dumps(meeting | {"general_query_list": [{"query": "All?"}]}))
    with pytest.raises(ValueError, match=r"m.json, general_query_list\[0\]: has no 'answer'"):
        read_qmsum(tmp_path)
    path.write_text('{"meeting_transcripts": [\n{"speaker"')
    with pytest.raises(ValueError, match=r"sum/qmsum/test/m.json, line 2, column \d+: not valid JSON"):
        read_qmsum(tmp_path)


def test_scitldr_leaves_known_duplicates_out(tmp_path):
    for part in ("train", "dev", "test"):
        rows = [{"source": ["A.", "B."], "target": ["x", "y"], "paper_id": one} for one in ("new", "HyxaHGcij7")]
        write_lines(tmp_path / "sum" / "scitldr" / f"{part}.jsonl", rows)
    data = read_scitldr(tmp_path)
    assert {part: len(pairs) for part, pairs in data.parts.items()} == {"train": 1, "validation": 2, "test": 2}
    assert data.parts["test"][0].documents == ("A. B.",)
    assert data.parts["test"][0].references == ("x", "y")


def test_the_real_files_are_read_whole(real_data):
    assert {part: len(pairs) for part, pairs in read_scitldr(real_data).parts.items()} == {
        "train": 1992 - len(SCITLDR_DUPLICATES),
        "validation": 618,
        "test": 618,
    }
    parts = read_scitldr(real_data).parts
    texts = {part: {pair.documents for pair in pairs} for part, pairs in parts.items()}
    assert not (
        texts["train"] & texts["test"] | texts["train"] & texts["validation"] | texts["validation"] & texts["test"]
    )
    assert {part: len(pairs) for part, pairs in read_qmsum(real_data).parts.items()} == {
        "train": 1257,
        "validation": 272,
        "test": 281,
    }

"""Own data and published data: columns, caches, and options that no other kind of data reads."""

import csv
import json

import pytest

from tasks.summarization.data import find_set, load_summaries
from tasks.summarization.sources import read_own, read_qmsum, read_scitldr

from .conftest import write_lines
from .test_data import parts_of, small


def test_other_columns_of_the_same_files_are_other_tokens(tmp_path):
    for part in ("train", "validation", "test"):
        rows = [{"body": f"body {i}", "title": f"title {i} of many", "note": "short"} for i in range(5)]
        write_lines(tmp_path / "own" / f"{part}.jsonl", rows)

    def texts(source, target):
        options = {"name": "own", "folder": str(tmp_path / "own"), "source_column": source, "target_column": target}
        data = load_summaries(small(**options), None, tmp_path / "cache")
        example = data.splits.test[1]
        return [data.tokenizer.decode(x[:-1]).decode() for x in (example.source, example.target)]

    assert texts("body", "title") == ["body 1", "title 1 of many"]
    assert texts("title", "body") == ["title 1 of many", "body 1"]
    assert texts("body", "note") == ["body 1", "short"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("auto", {"folder": "mine"}),
        ("reports", {"folder": "mine"}),
        ("reports", {"target": "docstring"}),
        ("docstrings", {"folder": "mine"}),
        ("scitldr", {"folder": "mine"}),
        ("qmsum", {"source_column": "text"}),
        ("multi_news", {"target_column": "text"}),
    ],
)
def test_a_setting_that_the_data_have_no_use_for_is_refused(name, settings, tmp_path):
    for root in (None, tmp_path):
        with pytest.raises(ValueError, match=rf"^data\.{next(iter(settings))} '\w+': data\.name \w+ doesn't read it"):
            load_summaries(small(name=name, **settings), root, tmp_path)


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_paper_without_a_summary_is_refused_with_its_line(part, tmp_path):
    for one in ("train", "dev", "test"):
        rows = [
            {"source": ["a b."], "target": [] if (one, i) == (part, 1) else ["a."], "paper_id": f"{one}{i}"}
            for i in range(3)
        ]
        write_lines(tmp_path / "sum" / "scitldr" / f"{one}.jsonl", rows)
    with pytest.raises(ValueError, match=rf"^sum/scitldr/{part}\.jsonl, line 2: 'target' must be .* list of texts"):
        read_scitldr(tmp_path)


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("csv", b"source,target,source\na,b,c\n", r"own/train\.csv, line 1: two columns are called 'source'"),
        ("csv", b"source, source \na,b\n", r"own/train\.csv, line 1: two columns are called 'source'"),
        ("csv", b" ,\n", r"own/train\.csv: is empty; a header"),
        ("jsonl", b'{"source": "a", "source": "b", "target": "c"}\n', r"own/train\.jsonl, line 1: the key 'source' is"),
        (
            "jsonl",
            b'{"source": "a", "target": "b"}\n{"id": ' + b"1" * 5000 + b"}\n",
            r"own/train\.jsonl, line 2: a number of thousands of digits",
        ),
    ],
)
def test_names_given_twice_and_endless_numbers_are_refused(ending, content, message, tmp_path):
    parts_of(tmp_path / "own", ending, content)
    with pytest.raises(ValueError, match=rf"^{message}"):
        read_own(tmp_path / "own", "source", "target")


def test_a_header_with_spaces_and_an_unnamed_index_are_read(tmp_path):
    parts_of(tmp_path / "own", "csv", b", source ,target \n0, a ,b\n \n1,c,d\n")
    pairs = read_own(tmp_path / "own", "source", "target").parts["test"]
    assert [(pair.documents, pair.references) for pair in pairs] == [((" a ",), ("b",)), (("c",), ("d",))]


def test_long_fields_leave_the_limit_of_the_process_alone(tmp_path):
    before = csv.field_size_limit()
    parts_of(tmp_path / "own", "csv", b"source,target\n" + b"w " * 100_000 + b",b\n")
    assert len(read_own(tmp_path / "own", "source", "target").parts["test"][0].documents[0]) == 200_000
    assert csv.field_size_limit() == before
    parts_of(tmp_path / "own", "csv", b"source,target\na,b,c\n")
    with pytest.raises(ValueError, match="line 2: 3 fields"):
        read_own(tmp_path / "own", "source", "target")
    assert csv.field_size_limit() == before


def test_a_meeting_with_a_key_twice_is_refused(tmp_path):
    turns = json.dumps([{"speaker": "A", "content": "hello"}])
    for part in ("train", "val", "test"):
        path = tmp_path / "sum" / "qmsum" / part / "m.json"
        path.parent.mkdir(parents=True)
        path.write_text(f'{{"meeting_transcripts": {turns}, "meeting_transcripts": {turns}}}')
    with pytest.raises(
        ValueError, match=r"^sum/qmsum/train/m\.json, line 1: the key 'meeting_transcripts' is there twice"
    ):
        read_qmsum(tmp_path)


def own_set(root, name):
    """A folder of a user's own files in sum/ of a data root."""
    for part in ("train", "validation", "test"):
        rows = [{"source": f"{name} has words {i}. And more.", "target": f"{name} words {i}."} for i in range(5)]
        write_lines(root / "sum" / name / f"{part}.jsonl", rows)


def test_the_only_set_of_a_data_root_is_used_without_options(tmp_path):
    own_set(tmp_path, "mine")
    data = load_summaries(small(), tmp_path, tmp_path / "cache")
    assert (data.splits.name, data.splits.embedded) == ("mine", False)
    named = load_summaries(small(name="own", folder="mine"), tmp_path, tmp_path / "cache")
    assert named.splits.fingerprint == data.splits.fingerprint
    assert data.lead_sentences == 1  # as many as the summaries have


def test_several_sets_are_named_with_the_options_that_choose_one(tmp_path):
    own_set(tmp_path, "mine")
    own_set(tmp_path, "yours")
    (tmp_path / "sum" / "qmsum").mkdir()
    with pytest.raises(ValueError, match=r"sum/ of the data root: has several sets; choose one: ") as caught:
        load_summaries(small(), tmp_path, tmp_path / "cache")
    for option in ("data.name=own data.folder=mine", "data.name=own data.folder=yours", "data.name=qmsum"):
        assert option in str(caught.value)


def test_scitldr_is_taken_from_among_several(tmp_path):
    own_set(tmp_path, "mine")
    (tmp_path / "sum" / "scitldr").mkdir()
    assert find_set(tmp_path) == ("scitldr", None)


def test_multi_news_is_known_by_its_files(tmp_path):
    folder = tmp_path / "sum" / "news"
    folder.mkdir(parents=True)
    for part in ("train", "val", "test"):
        (folder / f"{part}.src").write_text("one ||||| two\n")
        (folder / f"{part}.tgt").write_text("three four\n")
    assert find_set(tmp_path) == ("multi_news", "news")
    assert load_summaries(small(), tmp_path, tmp_path / "cache").splits.name == "multi_news"


def test_a_data_root_without_a_set_is_refused_with_what_is_wanted(tmp_path):
    (tmp_path / "sum" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"sum/ of the data root: has no set; scitldr/, qmsum/, or a folder with"):
        load_summaries(small(), tmp_path, tmp_path / "cache")

"""``lavo-bench board``: packs of anyone's are verified and merged; hostile ones are refused, and nothing of them is run."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from command_line import lavo_bench
from packs import edited, files_of, record_named, refusal, some_records, with_manifest, write

from benchmark import registry
from benchmark.settings.messages import ConfigError
from benchmark.sharing import audit
from benchmark.sharing.board import build_board, pack_files
from benchmark.sharing.pack import check_folder, write_pack


def other(sound: Path, folder: Path, name: str, change=lambda files: files) -> Path:
    """A pack of another name, with changed files and a manifest that agrees with them."""
    files = with_manifest(change(files_of(sound)), lambda content: content.update(name=name))
    return write(folder / f"{name}.zip", files)


def test_two_packs_are_merged_into_one_page(sound, tmp_path):
    folder = some_records(tmp_path / "two", ("performer", "cosformer"))
    write_pack(check_folder(folder, "two", conformance=False), tmp_path / "two.zip")
    built = build_board([sound, tmp_path], tmp_path / "board")
    assert (built.refused, built.left_out) == ([], [])
    text = built.markdown.read_text(encoding="utf-8")
    table = text[text.index("### probe · causal self") :]
    rows = re.findall(r"^\| \*?([\w ]+ · \w+)\*? \| 3 \|", table, re.MULTILINE)
    assert rows == ["softmax · one", "lavo · one", "performer · two", "cosformer · two", "none · one"]
    assert "15 cells of 2 packs" in text
    assert re.search(r"^\| two \| verified \| 6 \|", text, re.MULTILINE)
    assert (
        "lavo-bench run recall --backbone probe --pattern causal_self -a performer --preset quick --seeds 0,1,2" in text
    )
    assert "softmax · one" in built.html.read_text(encoding="utf-8")
    csv = (tmp_path / "board" / "tables" / "recall-probe-causal_self.csv").read_text(encoding="utf-8")
    assert "performer · two" in csv
    for link in re.findall(r'href="([^"#:]+)"', built.html.read_text(encoding="utf-8")):
        assert (tmp_path / "board" / link).is_file()
    again = build_board([sound, tmp_path / "two.zip"], tmp_path / "again" / "board")
    assert again.markdown.read_text(encoding="utf-8") == text


def test_cells_of_other_settings_stand_in_another_table(sound, tmp_path):
    def longer(files):
        changed = {}
        for name, content in files.items():
            if name.endswith(".json") and name != "manifest.json":
                record = json.loads(content)
                record["config"]["train"]["steps"] += 1
                name, content = renamed(record, files)
            changed[name] = content
        kept = {name for name in changed if name.endswith(".json")}
        return {name: content for name, content in changed.items() if name in kept} | {
            name: content for name, content in files.items() if name.endswith(".gz")
        }

    built = build_board([sound, other(sound, tmp_path, "two", longer)], tmp_path / "board")
    assert built.refused == []
    text = built.markdown.read_text(encoding="utf-8")
    assert text.count("### probe · causal self · train.steps") == 2


def renamed(record: dict, _files: dict) -> tuple[str, bytes]:
    """The name and content of a record with the hash of its changed configuration, as a run of it would have written."""
    from benchmark.results import from_json

    checked = from_json(record)
    attention = audit.built_in(checked.cell.attention)
    assert attention is not None
    cell = record["cell"]
    cell["hash"] = audit.cell_hash(checked, attention, record["data"]["sha256"])
    stem = f"{cell['backbone']}.{cell['pattern']}.{cell['attention']}.s{cell['seed']}.{cell['hash']}"
    return f"records/recall/{stem}.json", json.dumps(record).encode()


def test_a_row_that_both_packs_have_is_shown_once_and_a_differing_cell_is_named(sound, tmp_path):
    """The pack ``two`` has one figure that is forged together with its values by example, which no check can find."""

    def forged(files):
        name = record_named(files, ".lavo.s0.")
        beside = name.removesuffix(".json") + ".examples.csv.gz"
        frame = pd.read_csv(__import__("io").BytesIO(files[beside]), index_col="example", compression="gzip")
        perfect = frame.assign(**{column: frame[column].max() for column in frame if column.startswith("right")})
        assert perfect.shape == frame.shape
        values = {str(column): perfect[column].to_numpy() for column in perfect}
        metrics = registry.load_task("recall").metrics
        return {
            **files,
            beside: gzip.compress(perfect.to_csv().encode()),
            name: edited(
                files[name],
                lambda c: [found.update(value=metrics[key].value(values)) for key, found in c["metrics"].items()],
            ),
        }

    built = build_board([sound, other(sound, tmp_path, "two", forged)], tmp_path / "board")
    assert built.refused == []
    text = built.markdown.read_text(encoding="utf-8")
    assert "| softmax · one, two | 3 |" in text
    assert "lavo · two" in text
    assert "Cells that differ between packs" in text
    assert re.search(r"recall/probe.causal\\_self.lavo.s0 \| accuracy \| one [\d.]+, two [\d.]+", text)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            lambda c: c["metrics"]["accuracy"].update(value=99.5),
            "metric accuracy: is 99.5, but its values by example give",
        ),
        (lambda c: c["metrics"]["accuracy"].update(higher_is_better=False), "unit or direction"),
        (
            lambda c: c["config"]["train"].update(learning_rate=1.0),
            "is not that of its configuration, data and versions",
        ),
        (lambda c: c["data"].update(sha256="1" * 64), "is not that of its configuration, data and versions"),
        (lambda c: c["cell"].update(attention="../../x"), "not a record: cell.attention"),
        (lambda c: c.update(examples="../../../etc/passwd"), "not a record: examples"),
        (lambda c: c.update(examples="nothing.csv.gz"), "nothing.csv.gz: missing, or not a gzip file"),
        (lambda c: c["metrics"]["accuracy"].update(value="9" * 400), "not a record: metrics.accuracy.value"),
    ],
)
def test_a_forged_record_is_refused_even_if_the_manifest_agrees(sound, tmp_path, how, words):
    def forged(files):
        name = record_named(files, ".lavo.s0.")
        return {**files, name: edited(files[name], how)}

    assert words in refusal(other(sound, tmp_path, "two", forged), tmp_path)


def test_a_label_does_not_hide_the_attention(sound, tmp_path):
    def labelled(files):
        return {
            name: edited(content, lambda c: c["cell"].update(variant="softmax"))
            if ".lavo." in name and name.endswith(".json")
            else content
            for name, content in files.items()
        }

    built = build_board([other(sound, tmp_path, "two", labelled)], tmp_path / "board")
    assert "| softmax (lavo) · two | 3 |" in built.markdown.read_text(encoding="utf-8")


def test_a_changed_file_is_refused(sound, tmp_path):
    files = files_of(sound)
    name = record_named(files, ".lavo.s0.")
    pack = write(tmp_path / "a.zip", {**files, name: files[name] + b"\n"})
    assert (
        refusal(pack, tmp_path)
        == f"refused: {name}: its SHA-256 is not that of the manifest: changed after it was packed"
    )


def test_files_that_are_missing_or_not_named_are_refused(sound, tmp_path):
    files = files_of(sound)
    name = record_named(files, ".lavo.s0.")
    lacking = write(tmp_path / "a.zip", {key: value for key, value in files.items() if key != name})
    assert refusal(lacking, tmp_path) == f"refused: {name}: is missing"
    extra = write(tmp_path / "b.zip", {**files, "records/recall/extra.json": b"{}"})
    assert refusal(extra, tmp_path) == "refused: records/recall/extra.json: is not in the manifest"
    without = write(tmp_path / "c.zip", {key: value for key, value in files.items() if key != "manifest.json"})
    assert "has no manifest.json" in refusal(without, tmp_path)
    assert "has no records" in refusal(
        write(tmp_path / "d.zip", with_manifest({"manifest.json": files["manifest.json"]})), tmp_path
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 1, "format": 1}', "the key 'format' stands twice"),
        ('{"format": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not strict JSON"),
        ("{}", "Field required"),
        ("[]", "manifest.json: "),
        ("\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"), "not strict JSON"),
    ],
)
def test_a_bad_manifest_is_refused(sound, tmp_path, text, words):
    files = {**files_of(sound), "manifest.json": text.encode("latin-1")}
    assert words in refusal(write(tmp_path / "a.zip", files), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), "format = 2"),
        (lambda c: c.update(name="<script>"), "name = '<script>'"),
        (lambda c: c.update(more=1), "more = 1: Extra inputs are not permitted"),
        (lambda c: c["attentions"]["lavo"].update(version=99), "is not that of its configuration, data and versions"),
        (lambda c: c["attentions"].pop("lavo"), "attention lavo: not known here, and there is no source of it"),
        (lambda c: c["attentions"]["lavo"].update(source="sources/lavo.py"), "its source sources/lavo.py is missing"),
        (lambda c: c["attentions"]["lavo"].update(version=True), "attentions.lavo.version = True"),
        (lambda c: c.update(reference=77), "made with softmax of version 77"),
        (
            lambda c: c["attentions"]["lavo"].update(
                checks=[{"pattern": "causal_self", "check": "causality", "outcome": "failed"}]
            ),
            "attention lavo: fails the check causality at causal_self",
        ),
    ],
)
def test_a_manifest_that_says_otherwise_than_the_records_is_refused(sound, tmp_path, change, words):
    pack = write(tmp_path / "a.zip", with_manifest(files_of(sound), change))
    assert words in refusal(pack, tmp_path)


def test_a_left_out_seed_is_refused(sound, tmp_path):
    def picked(files):
        name = record_named(files, ".lavo.s1.")
        return {
            key: value
            for key, value in files.items()
            if key.split(".s1.")[0] != name.split(".s1.")[0] or ".s1." not in key
        }

    assert "recall/probe.causal_self, lavo: lacks seed 1 of preset quick" in refusal(
        other(sound, tmp_path, "two", picked), tmp_path
    )


def test_cells_of_another_version_of_a_task_are_left_out(sound, tmp_path):
    files = with_manifest(files_of(sound), lambda c: c.update(name="old", tasks={"recall": 99}))
    built = build_board([sound, write(tmp_path / "old.zip", files)], tmp_path / "board")
    (line,) = built.left_out
    assert line.startswith("old: 9 cells of recall, version 99, left out: the version here is")
    assert "· old" not in built.markdown.read_text(encoding="utf-8")


def test_the_source_in_a_pack_is_never_run(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proof = tmp_path / "was_run"
    source = f"open({str(proof)!r}, 'w').close()\nraise SystemExit('run')\n".encode()

    def with_source(files):
        changed = {"sources/evil.py": source}
        for name, content in files.items():
            if ".none." not in name:
                changed[name] = content
            elif name.endswith(".json"):
                record = json.loads(content)
                record["cell"].update(attention="evil", variant="evil")
                record["config"]["options"] = {"__class__": "os.system", "command": "touch was_run"}
                changed |= _renamed_with_source(record, name, files, source)
        return changed

    files = with_source(files_of(sound))
    entry = {"version": 1, "source": "sources/evil.py", "checks": []}
    pack = write(
        tmp_path / "evil.zip",
        with_manifest(
            files, lambda c: (c.update(name="evil"), c["attentions"].update(evil=entry), c["attentions"].pop("none"))
        ),
    )
    built = build_board([pack], tmp_path / "board")
    assert not proof.exists()
    assert "evil" not in registry.attention_names()
    text = built.markdown.read_text(encoding="utf-8")
    assert "| evil · evil | 3 |" in text
    assert "# Read these files before you run them: sources/evil/evil.py" in text
    assert "--include-path sources/evil/evil.py" in text
    assert (tmp_path / "board" / "sources" / "evil" / "evil.py").read_bytes() == source


def _renamed_with_source(record: dict, name: str, files: dict, source: bytes) -> dict[str, bytes]:
    """The record and its values by example under the names that its hash demands."""
    import hashlib

    from benchmark.results import from_json

    attention = audit.Attention(1, hashlib.sha256(source).hexdigest())
    cell = record["cell"]
    cell["hash"] = audit.cell_hash(from_json(record), attention, record["data"]["sha256"])
    stem = f"{cell['backbone']}.{cell['pattern']}.{cell['attention']}.s{cell['seed']}.{cell['hash']}"
    record["examples"] = f"{stem}.examples.csv.gz"
    examples = files[name.removesuffix(".json") + ".examples.csv.gz"]
    return {
        f"records/recall/{stem}.json": json.dumps(record).encode(),
        f"records/recall/{record['examples']}": examples,
    }


def test_markup_of_a_pack_stands_escaped_on_the_page(sound, tmp_path):
    def marked(files):
        found = {}
        for name, content in files.items():
            if name.startswith("records/") and name.endswith(".json"):
                content = edited(content, lambda c: c["data"].update(name="<script>alert(1)</script>"))
            found[name] = content
        return found

    built = build_board([other(sound, tmp_path, "two", marked)], tmp_path / "board")
    assert "<script>alert(1)" not in built.html.read_text(encoding="utf-8")
    assert "alert(1)" in built.html.read_text(encoding="utf-8")


def test_the_command_goes_on_without_a_refused_pack(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("packs").mkdir()
    Path("packs/good.zip").write_bytes(sound.read_bytes())
    Path("packs/same.zip").write_bytes(sound.read_bytes())
    Path("packs/torn.zip").write_bytes(sound.read_bytes()[:5000])
    answer = lavo_bench("board", "packs", "-o", "page")
    assert answer.status == 1
    lines = answer.err.splitlines()
    assert lines == [
        "same.zip: refused: another pack is called 'one' too",
        "torn.zip: refused: not a sound zip file: File is not a zip file",
    ]
    text = Path("page/board.md").read_text(encoding="utf-8")
    assert "Not shown: torn.zip: refused" in text
    assert str(tmp_path) not in text
    assert str(tmp_path) not in Path("page/board.html").read_text(encoding="utf-8")
    answer = lavo_bench("board", "packs/torn.zip", "-o", "none")
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert not Path("none/board.html").exists()


def test_folders_without_packs_and_missing_packs_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no packs \(\*.zip\) in this folder; lavo-bench submit packs"):
        pack_files([tmp_path])
    with pytest.raises(ConfigError, match="no such pack"):
        pack_files([tmp_path / "a.zip"])

"""``lavo-bench submit``: what is wrong with a folder is named line by line, and what is right is packed."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from command_line import lavo_bench
from packs import edited, files_of, some_records

from benchmark import registry, results
from benchmark.results import CellConfig, DataSource, Record, write_record
from benchmark.settings.cell import without_places
from benchmark.settings.command import names_in, runs_of
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.yaml_files import parse_assignment
from benchmark.sharing import privacy
from benchmark.sharing.audit import Attention, built_in, cell_hash
from benchmark.sharing.pack import check_folder, write_pack
from benchmark.sharing.repeat import commands

ROOT = Path(__file__).parents[2]
MINE = '''
"""The mean of the visible values."""

import torch
from torch import nn
from benchmark.registry import register_attention


@register_attention("mine")
class Mine(nn.Module):
    version = 3
    unsupported = {"causal_self": "no extend()", "causal_cross": "no read()"}

    def __init__(self, *, pattern: str, num_heads: int, head_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v, key_padding_mask=None):
        return self.scale * v.mean(2, keepdim=True).expand(q.shape)
'''


@pytest.fixture
def folder(tmp_path):
    """A folder of sound records."""
    return some_records(tmp_path / "records")


def faults_of(folder: Path, **options) -> list[str]:
    return check_folder(folder, "try", conformance=False, **options).faults


def one_of(folder: Path, attention: str, seed: int = 0) -> Path:
    return next((folder / "recall").glob(f"*.{attention}.s{seed}.????????????.json"))


def change(path: Path, how) -> None:
    path.write_bytes(edited(path.read_bytes(), how))


def test_hashes_of_the_planner_are_recomputed():
    """The planner wrote the hashes of the committed records, from settings that it had not read from them."""
    found = results.records([ROOT / "results" / "quick"])
    assert len(found) > 200
    for record in found:
        assert cell_hash(record, built_in(record.cell.attention), record.data.sha256) == record.cell.hash


@pytest.mark.usefixtures("own_registry")
def test_the_hash_covers_the_source_of_an_included_file(tmp_path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    registry.include_file(tmp_path / "mine.py")
    run = RunSettings(tasks=["forecasting"], attentions=["mine"], preset="smoke", patterns=["noncausal_self"], limit=4)
    (cell,) = plan_cells([(run, [parse_assignment("attentions.mine.scale=2.5")])], tmp_path / "cache")
    data = plan_cells(
        [(run.model_copy(update={"attentions": RunSettings(attentions=["none"]).attentions}), [])], tmp_path
    )
    record = Record(cell.name, "completed", CellConfig(**without_places(cell.config)))
    fingerprint = _fingerprint(data[0])
    digest = registry.included_digest("mine")
    assert cell_hash(record, Attention(3, digest), fingerprint) == cell.hash
    assert cell_hash(record, Attention(3, None), fingerprint) != cell.hash
    assert cell_hash(record, Attention(2, digest), fingerprint) != cell.hash


def _fingerprint(cell) -> str:
    """The fingerprint of the cell's data, which the task makes again."""
    cls = registry.load_task(cell.task)
    settings = {key: cell.config[key] for key in ("data", "model", "eval")}
    task = registry.make_task(
        cell.task, cls.settings_of[cell.backbone].model_validate(settings), backbone=cell.backbone, pattern=cell.pattern
    )
    return task.load_data(None, Path("/dev/null/unused")).fingerprint


def test_sound_records_are_packed_to_the_same_bytes(folder, tmp_path):
    first = check_folder(folder, "try", conformance=False)
    assert first.faults == []
    write_pack(first, tmp_path / "a.zip")
    for path in sorted((folder / "recall").iterdir(), reverse=True):
        path.touch()
    write_pack(check_folder(folder, "try", conformance=False), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    files = files_of(tmp_path / "a.zip")
    assert sum(name.endswith(".json") and name.startswith("records/") for name in files) == 9
    assert sum(name.endswith(".examples.csv.gz") for name in files) == 9
    assert not [name for name in files if "curves" in name]
    assert json.loads(files["manifest.json"])["attentions"]["lavo"]["version"] == built_in("lavo").version


def _examples(path: Path, how) -> None:
    file = path.with_name(path.stem + ".examples.csv.gz")
    frame = pd.read_csv(file, index_col="example")
    frame = how(frame)
    file.write_bytes(gzip.compress(frame.to_csv().encode()))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            lambda c: c["metrics"]["accuracy"].update(value=99.5),
            "metric accuracy: is 99.5, but its values by example give",
        ),
        (
            lambda c: c["metrics"]["accuracy"].update(value=None),
            "metric accuracy: is None, but its values by example give",
        ),
        (lambda c: c["metrics"]["accuracy"].update(n=7), "metric accuracy: n is 7, but there are"),
        (lambda c: c["metrics"]["accuracy"].update(higher_is_better=False), "unit or direction is not that of recall"),
        (lambda c: c["metrics"].update(luck={"value": 1.0, "n": 1}), "metric 'luck': recall has none of this name"),
        (lambda c: c["config"]["train"].update(steps=10**6), "is not that of its configuration, data and versions"),
        (lambda c: c["config"]["options"].update(rank=1), "is not that of its configuration, data and versions"),
        (lambda c: c["config"].update(limit=5), "is not that of its configuration, data and versions"),
        (lambda c: c["data"].update(sha256="0" * 64), "is not that of its configuration, data and versions"),
        (lambda c: c["cell"].update(seed=5), "its file should be recall/probe.causal_self.lavo.s5."),
        (lambda c: c["cell"].update(backbone="gpt"), "its file should be"),
        (lambda c: c.update(examples=None), "has no metrics, or no values by example"),
        (lambda c: c.update(status="failed", data={}, efficiency={}), "is failed, but has metrics"),
        (lambda c: c.update(schema_version=9), "schema_version '9'"),
        (lambda c: c.update(reason="see /home/someone/run.log"), "contains the absolute path /home/someone/run.log"),
        (lambda c: c["environment"].update(device="C:\\Users\\someone\\gpu"), "contains the absolute path C:"),
    ],
)
def test_each_fault_of_a_record_is_named_in_one_line(folder, how, words):
    path = one_of(folder, "lavo")
    change(path, how)
    faults = faults_of(folder)
    assert any(words in line for line in faults), faults
    assert not any("\n" in line for line in faults)
    assert all(path.name in line for line in faults), faults
    assert not any(str(folder) in line for line in faults)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda frame: frame.iloc[3:], "but there are"),
        (lambda frame: frame.assign(**{frame.columns[0]: "x"}), "is not of numbers"),
        (lambda frame: frame[[]].assign(other=1.0), "the values by example don't give it"),
    ],
)
def test_values_by_example_that_do_not_fit_are_named(folder, how, words):
    _examples(one_of(folder, "lavo"), how)
    assert any(words in line for line in faults_of(folder)), faults_of(folder)


def test_missing_and_damaged_values_by_example_are_named(folder):
    path = one_of(folder, "lavo")
    file = path.with_name(path.stem + ".examples.csv.gz")
    file.write_bytes(file.read_bytes()[:40])
    assert any("missing, or not a gzip file" in line for line in faults_of(folder))
    file.unlink()
    assert any("missing, or not a gzip file" in line for line in faults_of(folder))


def test_a_seed_that_is_left_out_is_named(folder):
    one_of(folder, "lavo", 1).unlink()
    assert faults_of(folder) == ["recall/probe.causal_self, lavo: lacks seed 1 of preset quick"]


def test_failed_cells_are_packed_and_their_hashes_are_checked_with_the_data_of_others(folder):
    path = one_of(folder, "lavo")

    def fail(content):
        content.update(status="failed", reason="RuntimeError: no", metrics={}, controls={}, data={}, efficiency={})
        content.update(examples=None, curves=None)

    change(path, fail)
    assert faults_of(folder) == []
    change(path, lambda content: content["config"]["train"].update(steps=3))
    assert any("is not that of its configuration" in line for line in faults_of(folder))


@pytest.mark.usefixtures("own_registry")
def test_the_file_of_an_included_attention_is_packed(folder, tmp_path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    _records_of_mine(folder, tmp_path / "mine.py")
    assert any("attention mine: not known here, and there is no source of it" in line for line in faults_of(folder))
    submission = check_folder(folder, "try", [tmp_path / "mine.py"], conformance=False)
    assert submission.faults == []
    assert submission.manifest.attentions["mine"].source == "sources/mine.py"
    assert submission.files["sources/mine.py"].decode() == MINE


def _records_of_mine(folder: Path, source: Path) -> None:
    """Adds records of the attention ``mine``, made of those of ``none``."""
    import hashlib
    from dataclasses import replace

    for seed in range(3):
        record = results.read_record(one_of(folder, "none", seed))
        attention = Attention(3, hashlib.sha256(source.read_bytes()).hexdigest())
        config = replace(record.config, options={"scale": 1.0})
        cell = replace(record.cell, attention="mine", variant="mine")
        record = replace(record, cell=cell, config=config)
        record = replace(record, cell=replace(cell, hash=cell_hash(record, attention, record.data.sha256)))
        stem = f"probe.causal_self.mine.s{seed}.{record.cell.hash}"
        columns = {str(name): values.to_numpy() for name, values in record.examples.items()}
        write_record(folder / "recall" / f"{stem}.json", record, columns)


@pytest.mark.usefixtures("own_registry")
def test_a_copy_of_a_python_class_is_found_in_the_folder(folder, tmp_path):
    (folder / "sources").mkdir()
    source = folder / "sources" / "mine.0123456789ab.py"
    source.write_text(MINE, encoding="utf-8")
    (folder / "sources" / "mine.ba9876543210.py").write_text(MINE.replace("1.0", "2.0"), encoding="utf-8")
    _records_of_mine(folder, source)
    submission = check_folder(folder, "try", conformance=False)
    assert submission.faults == []
    assert submission.manifest.attentions["mine"].source == "sources/mine.0123456789ab.py"


@pytest.mark.usefixtures("own_registry")
def test_a_copy_that_needs_a_file_of_the_submitter_is_named(folder, tmp_path):
    (folder / "sources").mkdir()
    source = folder / "sources" / "mine.0123456789ab.py"
    source.write_text(f"# Imported, and not copied: helpers.shift, SHA-256 {'0' * 64}\n{MINE}", encoding="utf-8")
    _records_of_mine(folder, source)
    assert faults_of(folder) == [
        "sources/mine.0123456789ab.py: imports helpers.shift, which is not in the pack; put both into one file, so that others can run it"
    ]


@pytest.mark.usefixtures("own_registry")
def test_an_attention_that_fails_the_conformance_suite_is_named(folder, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace('{"causal_self": "no extend()", ', "{"), encoding="utf-8")
    _records_of_mine(folder, tmp_path / "mine.py")
    for path in (folder / "recall").glob("*.softmax.*"):
        path.unlink()
    for path in (folder / "recall").glob("*.lavo.*"):
        path.unlink()
    faults = check_folder(folder, "try", [tmp_path / "mine.py"]).faults
    assert "attention mine: fails the check causality at causal_self" in faults
    assert not any("attention none" in line for line in faults)


def test_the_command_packs_or_names_faults(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in [*(folder / "recall").glob("*.softmax.*"), *(folder / "recall").glob("*.lavo.*")]:
        path.unlink()
    answer = lavo_bench("submit", folder, "--name", "lab-1", "-o", "out/lab.zip")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out == "out/lab.zip: 3 cells of none\n"
    manifest = json.loads(files_of(tmp_path / "out" / "lab.zip")["manifest.json"])
    assert manifest["name"] == "lab-1"
    assert {row["outcome"] for row in manifest["attentions"]["none"]["checks"]} <= {"passed", "not applicable"}
    change(one_of(folder, "none"), lambda content: content["metrics"]["accuracy"].update(value=99.0))
    answer = lavo_bench("submit", folder)
    assert answer.status == 1
    assert answer.err.startswith("fault: recall/probe.causal_self.none.s0.")
    assert not (tmp_path / "records.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no folder of records; lavo-bench run -o writes one"),
        (["records", "--name", "a b"], "--name 'a b': 1 to 40 letters"),
        (["records", "-o", "pack.tar"], "-o pack.tar: must end in .zip"),
    ],
)
def test_mistakes_of_the_command_are_named(folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    answer = lavo_bench("submit", *arguments)
    assert answer.status == 2
    assert words in answer.err


def test_a_submission_with_faults_is_not_written(folder, tmp_path):
    one_of(folder, "lavo").unlink()
    with pytest.raises(ConfigError, match="has 1 faults, so it is not packed"):
        write_pack(check_folder(folder, "try", conformance=False), tmp_path / "a.zip")


def test_this_machine_is_found_in_texts(monkeypatch):
    monkeypatch.setattr(privacy.socket, "gethostname", lambda: "node-17.cluster.example")
    monkeypatch.setattr(privacy.getpass, "getuser", lambda: "jdoe")
    assert list(privacy.found_in(b"ran on node-17, ok")) == ["the host name node-17"]
    assert list(privacy.found_in(b"by jdoe.")) == ["the user name jdoe"]
    assert list(privacy.found_in(b"node-170 and jdoes; https://a.b/home/x/y; causal/self; 1 /2/ 3")) == []
    assert next(privacy.found_in(b'"D:\\\\data\\\\x"')).startswith("the absolute path D:")
    monkeypatch.setattr(privacy.getpass, "getuser", lambda: "root")
    assert list(privacy.found_in(b"the root mean square")) == []


@pytest.mark.parametrize(
    "part",
    [
        "recall/probe.causal_self.lavo",
        "summarization/transformer.every.softmax",
        "forecasting/informer.noncausal_cross.performer",
    ],
)
def test_the_command_that_repeats_a_row_plans_the_same_cells(part, tmp_path):
    found = results.records([ROOT / "results" / "quick"])
    row = [record for record in found if f"{record.path.parent.name}/{record.path.name}".startswith(part)]
    assert len(row) == 3
    (command,) = commands(row, {})
    words = shlex.split(command)
    assert words[:3] == ["lavo-bench", "run", row[0].cell.task]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    settings = [value for flag, value in zip(words[3::2], words[4::2], strict=True) if flag == "--set"]
    chosen = {
        "tasks": [words[2]],
        "attentions": names_in(options["-a"], "-a"),
        "backbones": names_in(options["--backbone"], "--backbone"),
        "patterns": names_in(options["--pattern"], "--pattern"),
        "seeds": names_in(options["--seeds"], "--seeds"),
        "preset": options["--preset"],
    }
    # A tuned rate would replace that of the preset, so the command always gives the rate.
    assert f"train.learning_rate={row[0].config.train['learning_rate']}" in settings
    cells = plan_cells(runs_of(None, chosen, settings), tmp_path)
    assert {cell.hash for cell in cells} == {record.cell.hash for record in row}


def test_the_command_of_real_data_and_of_a_file_says_so():
    record = results.records([ROOT / "results" / "quick"])[0]
    from dataclasses import replace

    real = replace(record, data=DataSource("x", False, "0" * 64))
    (command,) = commands([real], {record.cell.attention: "sources/lab/mine.py"})
    assert command.endswith("--data-root DATA --include-path sources/lab/mine.py")

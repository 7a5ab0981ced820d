"""The commands from end to end, as a user types them."""

from __future__ import annotations

import getpass
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lavo_bench

from benchmark import registry
from benchmark.interface import PATTERNS, PRESETS
from benchmark.report.listing import PRESET_PURPOSE
from benchmark.results import load, read_record, record_files
from benchmark.running import workers

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "scipy", "accelerate", "tokenizers")
SHORT = ["--preset", "smoke", "--limit", "2", "--jobs", "1", "--device", "cpu"]
SHORT += ["--set", "train.steps=2", "--set", "train.warmup_steps=0"]

MINE = """
from benchmark import register_attention
from baselines.none import NoAttention

@register_attention("raises")
class Raises(NoAttention):
    def forward(self, q, k, v, key_padding_mask=None):
        raise ZeroDivisionError("no such thing\\nas a second line")

@register_attention("declines")
class Declines(NoAttention):
    unsupported = {"causal_self": "reads the whole sequence first"}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder for the tests of this file, with a cache that all their runs share."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        patch.chdir(folder)
        patch.setenv("LAVO_BENCH_CACHE", str(folder / "cache"))
        patch.delenv("LAVO_BENCH_DATA", raising=False)
        yield folder


@pytest.fixture(scope="module")
def first(place):
    """The first run, of two attentions."""
    return lavo_bench("run", "lm", "-a", "none,softmax", *SHORT, "-o", "out")


@pytest.fixture(scope="module")
def mixed(place):
    """A run of three attentions, of which one raises and one declines the pattern."""
    (place / "mine.py").write_text(MINE, encoding="utf-8")
    known = dict(registry._decorated), dict(registry._included)
    answer = lavo_bench("run", "lm", "-a", "raises,declines,none", *SHORT, "-o", "mixed", "--include-path", "mine.py")
    yield answer
    registry._decorated, registry._included = known


@pytest.fixture
def nothing_starts(monkeypatch):
    def started(cells, *_arguments, **_options):
        raise AssertionError(f"started: {[cell.title for cell in cells]}")

    monkeypatch.setattr(workers, "run_cells", started)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["list"], ["list", "tasks"], ["list", "attentions"]], ids=" ".join
)
def test_help_and_list_import_nothing_heavy(arguments):
    heavy = (*HEAVY, "pydantic") if arguments == ["--help"] else HEAVY  # Typer itself imports it for a command
    code = (
        "import sys; from benchmark.cli import main; sys.argv = ['lavo-bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as exit: assert not exit.code, exit.code\n"
        f"print('IMPORTED', *[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "IMPORTED"
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["list", "prepare", "run", "check", "efficiency", "report", "compare", "validate"])
def test_every_command_of_the_contract_has_help(command):
    answer = lavo_bench(command, "--help")
    assert answer.status == 0
    assert "Usage: " in answer.out
    assert command in lavo_bench("--help").out


# list


def test_list_names_every_task_attention_pattern_and_preset(place):
    answer = lavo_bench("list")
    assert answer.status == 0
    for word in (*registry.TASKS, *registry.ATTENTIONS, *PATTERNS, *PRESETS, "lm", "lstf"):
        assert re.search(rf"\b{word}\b", answer.out), word


def test_every_preset_says_what_it_is_for():
    assert set(PRESET_PURPOSE) == set(PRESETS)
    assert all(purpose in lavo_bench("list", "presets").out for purpose in PRESET_PURPOSE.values())


def test_list_results_of_a_fresh_clone_is_an_empty_table(place):
    for arguments, folder in (((), "results"), (("-o", "elsewhere"), "elsewhere")):
        answer = lavo_bench("list", "results", *arguments)
        assert answer.status == 0, answer.err
        assert f"no folder {folder} yet" in answer.out
    Path("empty").mkdir()
    answer = lavo_bench("list", "results", "-o", "empty")
    assert (answer.status, answer.err) == (0, "")
    Path("a file").write_text("")
    answer = lavo_bench("list", "results", "-o", "a file")
    assert answer.status == 2
    assert "a file: is a file, not a folder of results" in answer.err


def test_list_says_why_a_pattern_is_not_supported(mixed):
    out = lavo_bench("list", "attentions", "--include-path", "mine.py").out
    (line,) = [line for line in out.splitlines() if "declines" in line]
    assert "causal_self: reads the whole sequence first" in line


def test_list_results_counts_records(first, mixed):
    answer = lavo_bench("list", "results", "-o", ".")
    assert answer.status == 0
    rows = [re.findall(r"[^\s│┃]+", line) for line in answer.out.splitlines()]
    assert ["out", "language_modeling", "2", "2", "0"] in rows
    assert ["mixed", "language_modeling", "3", "1", "2"] in rows


# prepare and validate


def test_prepare_makes_the_data_and_says_what_they_are(place):
    answer = lavo_bench("prepare", "lm", "lstf", "--preset", "smoke")
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["language_modeling/gpt", "forecasting/informer"]
    assert all(
        re.search(r"embedded, train \d+, validation \d+, test \d+ examples, SHA-256 [0-9a-f]{16}", x) for x in lines
    )


def test_validate_counts_runs_and_cells(place):
    (place / "runs.yaml").write_text("preset: smoke\nseeds: [0, 1]\nruns: [{tasks: [lm], attentions: [lavo, none]}]\n")
    answer = lavo_bench("validate", "runs.yaml")
    assert (answer.status, answer.out) == (0, "runs.yaml: valid; 1 run, 4 cells\n")


# run


def test_a_run_leaves_a_record_for_each_cell(first, place):
    assert first.status == 0, first.err
    assert "2 cells, 0 of them done already; records in out" in first.out
    assert "[2/2]" in first.out
    frame = load(place / "out")
    assert sorted(frame["attention"]) == ["none", "softmax"]
    assert set(frame["status"]) == {"completed"}
    assert set(frame["preset"]) == {"smoke"}
    assert frame["metric.loss"].gt(0).all()
    for path in record_files(place / "out"):
        record = read_record(path)
        assert record.config.limit == 2
        assert record.config.train["steps"] == 2
        assert path.name == f"gpt.causal_self.{record.cell.attention}.s0.{record.cell.hash}.json"
        assert path.with_name(record.examples_file).is_file()
        assert record.data.embedded is True
    assert not list((place / "out").glob(".checkpoints/*"))


def test_a_record_says_nothing_about_person_or_place(first, place):
    private = {str(place), str(Path.home()), str(Path(__file__).parents[1]), socket.gethostname(), getpass.getuser()}
    for path in record_files(place / "out"):
        text = path.read_text(encoding="utf-8")
        strings = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
        assert not [string for string in strings if string.startswith(("/", "~"))]
        assert not [word for word in private if len(word) > 4 and word in text]


def test_a_repeated_request_starts_no_cell(first, nothing_starts):
    answer = lavo_bench("run", "-a", "softmax,none", *SHORT[::-1][::-1], "lm", "-o", "out")
    assert answer.status == 0, answer.err
    assert "2 cells, 2 of them done already" in answer.out


def test_rerun_and_new_settings_start_cells(first, nothing_starts):
    assert (
        "started: ['language_modeling/gpt.causal_self.none.s0']"
        in lavo_bench("run", "lm", "-a", "none", *SHORT, "-o", "out", "--rerun").err
    )
    assert (
        "started: ['language_modeling/gpt.causal_self.none.s1']"
        in lavo_bench("run", "lm", "-a", "none,softmax", *SHORT, "-o", "out", "--seeds", "0,1", "-a", "none").err
    )


def test_a_run_file_and_the_command_line_are_one(first, place, nothing_starts):
    (place / "same.yaml").write_text(
        "tasks: [lm]\nattentions: [lavo]\npreset: quick\nlimit: 2\nset: {train.steps: 9, train.warmup_steps: 0}\n"
    )
    arguments = ["-a", "none,softmax", "--preset", "smoke", "--set", "train.steps=2"]
    answer = lavo_bench("run", "--config", "same.yaml", *arguments, "-o", "out")
    assert answer.status == 0, answer.err
    assert "2 cells, 2 of them done already" in answer.out


def test_one_failing_cell_does_not_lose_the_others(mixed, place):
    assert mixed.status == 1, mixed.err
    found = {record.cell.attention: record for record in map(read_record, record_files(place / "mixed"))}
    assert {name: record.status for name, record in found.items()} == {
        "raises": "failed",
        "declines": "unsupported",
        "none": "completed",
    }
    assert found["raises"].reason == "ZeroDivisionError: no such thing"
    assert found["raises"].metrics == {}
    assert found["declines"].reason == "reads the whole sequence first"
    assert found["none"].metrics["loss"].value > 0
    assert "failed: language_modeling/gpt.causal_self.raises.s0" in mixed.out
    assert "1 of 3 cells failed; --retry-failed runs them again" in mixed.out
    assert "Traceback" not in mixed.out + mixed.err


def test_a_failed_cell_is_left_alone_without_being_asked(mixed, nothing_starts):
    answer = lavo_bench("run", "lm", "-a", "raises,declines,none", *SHORT, "-o", "mixed", "--include-path", "mine.py")
    assert answer.status == 1
    assert "3 cells, 3 of them done already" in answer.out


def test_retry_failed_runs_what_failed_and_nothing_else(mixed, nothing_starts):
    arguments = ["-a", "raises,declines,none", *SHORT, "-o", "mixed", "--include-path", "mine.py", "--retry-failed"]
    assert "started: ['language_modeling/gpt.causal_self.raises.s0']" in lavo_bench("run", "lm", *arguments).err


def test_a_pattern_that_is_not_supported_is_no_failure(mixed, nothing_starts):
    answer = lavo_bench("run", "lm", "-a", "declines,none", *SHORT, "-o", "mixed", "--include-path", "mine.py")
    assert answer.status == 0, answer.err


def test_records_lie_below_the_presets_name_where_no_folder_is_given(place, nothing_starts):
    answer = lavo_bench("run", "lm", "-a", "none", *SHORT)
    assert "started: " in answer.err
    assert f"records in {Path('results') / 'smoke'}" in answer.out
    assert (place / "results" / "smoke").is_dir()


# report and compare


def test_report_and_compare_read_what_a_run_wrote(first, mixed, place):
    answer = lavo_bench("report", "out", "mixed", "-o", "report")
    assert answer.status == 0, answer.err
    text = (place / "report" / "report.md").read_text(encoding="utf-8")
    assert "softmax" in text
    assert "ZeroDivisionError" in text
    answer = lavo_bench("compare", "out", "mixed")
    assert answer.status == 0, answer.err
    for words in (("softmax", "only in A"), ("declines", "only in B"), ("none", "loss ↓")):
        assert any(all(word in line for word in words) for line in answer.out.splitlines()), words
    assert "nan" not in answer.out
    assert "…" not in answer.out
    assert "bits_per_byte" not in answer.out
    assert "bits_per_byte" in lavo_bench("compare", "out", "mixed", "--all-metrics").out


def test_compare_of_two_attentions_writes_files_and_finds_regressions(first, place):
    answer = lavo_bench("compare", "out", "-a", "softmax,none", "-o", "both.md", "--fail-on-regression")
    assert answer.status == 0, answer  # one seed resolves nothing
    assert "0 resolved regressions" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "| gpt.causal\\_self | loss ↓ |" in (place / "both.md").read_text(encoding="utf-8")
    assert lavo_bench("compare", "out", "-a", "softmax,none", "-o", "both.csv").status == 0
    assert "bits_per_byte" in (place / "both.csv").read_text(encoding="utf-8")
    for arguments, words in (
        (["out"], "must name two attentions"),
        (["out", "-a", "softmax"], "must name two attentions"),
        (["out", "-a", "softmax,none", "-o", "both.txt"], "must end in .md or .csv"),
        (["out", "-a", "softmax,nonne"], "attention 'nonne': no cell of it (did you mean none?)"),
    ):
        answer = lavo_bench("compare", *arguments)
        assert words in answer.err, answer
        assert answer.status == 2
        assert answer.err.count("\n") == 1


# efficiency and check


def test_efficiency_writes_its_table(place):
    arguments = ["--lengths", "16,32", "--rounds", "5", "--num-heads", "1", "--head-dim", "8", "--device", "cpu"]
    answer = lavo_bench("efficiency", "-a", "lavo,softmax", *arguments, "-o", "sweep", "--mode", "forward")
    assert answer.status == 0, answer.err
    rows = (place / "sweep" / "efficiency.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    assert "written: sweep/efficiency.csv" in answer.out


def test_check_shows_what_holds(place):
    answer = lavo_bench("check", "none", "--pattern", "noncausal_cross")
    assert answer.status == 0, answer.err
    assert "none: mathematics" in answer.out
    assert "none: contract" in answer.out
    assert "passed" in answer.out
    assert answer.out.rstrip().endswith(
        "none can be used in pointr (noncausal cross), informer (noncausal cross), probe (noncausal cross)."
    )

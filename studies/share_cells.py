"""Runs the same smoke cells with local workers, SLURM and Ray, and compares their records: ``python -m studies.share_cells``.

``--seeds 10`` gives 200 cells (four tasks, five attentions), ``--seeds 1 --attentions softmax,lavo,none`` twelve.  Each run has a folder
of its own, and all share the cache, which is made before.  The local workers are processes of ``lavo-bench work`` that share one plan.
SLURM is a real one if ``tests/launching/slurm_node.sh`` can start it, else submitit's local executor.  Of two Ray nodes one is killed when a
quarter of the records is there.  ``--write docs/cluster.md`` puts the table into that page.

The clock runs from the start of the first process to the end of the last one, so it includes some seconds in which each imports torch.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmark import results
from studies import claim_times

ROOT = Path(__file__).resolve().parents[1]
NODE = ROOT / "tests" / "launching" / "slurm_node.sh"
TASKS = ("lm", "lstf", "sum", "recall")
ATTENTIONS = "softmax,lavo,none,performer,cosformer"
LOCAL = (1, 2, 4, 8)
SLURM_WORKERS = 4
MARKS = ("<!-- share_cells -->", "<!-- end of share_cells -->")
HEAD = (
    "| workers | wall s | cells a worker | reruns | claims, ms a cell | publication, ms a cell |\n"
    "|---|---|---|---|---|---|"
)


class Setting(NamedTuple):
    """What all runs have in common: a folder for them, and the options that say which cells."""

    folder: Path
    cells: list[str]

    def output(self, name: str) -> Path:
        """Returns the folder of results of one run."""
        return self.folder / name / "results"


class Row(NamedTuple):
    """One run of all cells."""

    name: str
    seconds: float
    costs: claim_times.Costs
    records: dict[str, object]

    def __str__(self) -> str:
        spread = self.costs.by_worker
        cells = f"{spread[-1]} to {spread[0]}" if spread[-1] != spread[0] else f"{spread[0]}"
        reruns = self.costs.starts - sum(spread)
        times = [
            f"{clock:.1f} ({cpu:.1f} of CPU)"
            for clock, cpu in (
                (self.costs.claims, self.costs.claims_cpu),
                (self.costs.publication, self.costs.publication_cpu),
            )
        ]
        return f"| {self.name} | {self.seconds:.0f} | {cells} | {reruns} | {' | '.join(times)} |"


def records(folder: Path) -> dict[str, object]:
    """Returns everything that a run leaves, by path: of records all but times, speed, memory and environment."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: object = path.read_bytes()
        if path.suffix == ".json":
            record = results.as_json(results.read_record(path))
            content = {
                key: record[key] for key in record if key not in ("started", "seconds", "efficiency", "environment")
            }
        elif path.suffix == ".gz":
            content = gzip.decompress(path.read_bytes())
        found[path.relative_to(folder).as_posix()] = content
    return found


def command(*arguments: object) -> list[str]:
    """Returns a command of ``lavo-bench``."""
    return [sys.executable, "-m", "benchmark.cli", *map(str, arguments)]


def plan(setting: Setting, output: Path) -> None:
    """Writes the plan of all cells, and makes their data if they aren't in the cache."""
    cache = setting.folder / "cache"
    subprocess.run(
        command("run", *setting.cells, "--cache", cache, "-o", output, "--plan-only"), check=True, stdout=subprocess.DEVNULL
    )  # fmt: skip


def run(setting: Setting, name: str, start: Callable[[Path], list[subprocess.Popen[bytes]]]) -> Row:
    """Runs all cells and returns the row.  start: called with the folder of results, starts processes.  Raises RuntimeError."""
    output = setting.output(re.sub(r"\W+", "-", name))
    measured = output.parent / "measured"
    measured.mkdir(parents=True)
    os.environ[claim_times.FOLDER] = str(measured)
    started = time.monotonic()
    statuses = [process.wait() for process in start(output)]
    seconds = time.monotonic() - started
    left = [path.name for path in output.glob(".*")]
    if any(statuses) or left:
        raise RuntimeError(f"{name}: exit statuses {statuses}, left behind: {left}")
    row = Row(name, seconds, claim_times.read(measured), records(output))
    print(row, flush=True)
    return row


def local(setting: Setting, workers: int) -> Row:
    """Runs all cells with that many processes of ``lavo-bench work``."""

    def start(output: Path) -> list[subprocess.Popen[bytes]]:
        return [
            subprocess.Popen(command("work", output, "--jobs", 1), stdout=subprocess.DEVNULL) for _ in range(workers)
        ]

    name = f"{workers} local"
    plan(setting, setting.output(re.sub(r"\W+", "-", name)))
    return run(setting, name, start)


def launched(setting: Setting, output: Path, *options: object) -> subprocess.Popen[bytes]:
    """Starts ``lavo-bench run`` with a launcher."""
    cache = setting.folder / "cache"
    return subprocess.Popen(
        command("run", *setting.cells, "--cache", cache, "-o", output, *options), stdout=subprocess.DEVNULL
    )


@contextmanager
def slurm_node(folder: Path) -> Iterator[str]:
    """Starts a SLURM node, whose commands find it by the environment.  Yields the executor: local if it can't be started."""
    done = (
        subprocess.run([NODE, "start", folder], capture_output=True, text=True, check=False) if NODE.exists() else None
    )
    if done is None or done.returncode:
        print(done.stderr.strip() if done else f"{NODE} is missing", file=sys.stderr)
        yield "local"
        return
    name, _, value = done.stdout.strip().partition("=")
    os.environ[name] = value
    try:
        yield "slurm"
    finally:
        subprocess.run([NODE, "stop", folder], check=False)


def slurm(setting: Setting) -> Row:
    """Runs all cells with an array of SLURM jobs."""
    with slurm_node(setting.folder / "node") as executor:
        options = ["--launcher", "slurm", "--workers", SLURM_WORKERS, "--launcher-option", f"executor={executor}"]
        title = (
            f"{SLURM_WORKERS} jobs of SLURM" if executor == "slurm" else f"{SLURM_WORKERS} of submitit's local executor"
        )
        return run(setting, title, lambda output: [launched(setting, output, *options)])


def ray(setting: Setting, num_cells: int) -> Row:
    """Runs all cells on two Ray nodes, and kills one of them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    def start(output: Path) -> list[subprocess.Popen[bytes]]:
        process = launched(setting, output, "--launcher", "ray", "--launcher-option", f"address={cluster.address}")
        while len(list(output.glob("[!.]*/*.json"))) < num_cells / 4 and process.poll() is None:
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        return [process]

    # The nodes inherit the environment, so the folder of the measurement must be named before they start.
    name = "2 Ray nodes, one killed"
    os.environ[claim_times.FOLDER] = str(setting.output(re.sub(r"\W+", "-", name)).parent / "measured")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1, include_dashboard=False)
        return run(setting, name, start)
    finally:
        cluster.shutdown()


def differing(rows: list[Row]) -> list[str]:
    """Returns the names of the runs whose records aren't those of the first one."""
    return [row.name for row in rows if row.records != rows[0].records]


def filled(text: str, table: str) -> str:
    """Returns the text with the table between the marks.  Raises ValueError if they are missing."""
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise ValueError(f"the marks {MARKS[0]} and {MARKS[1]} are missing")
    return f"{before}{mark}\n{table}\n{end}{after}"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; 10 give 200 cells.")] = 10,
    attentions: Annotated[str, typer.Option(help="Names, separated by commas.")] = ATTENTIONS,
    only: Annotated[str, typer.Option(help="Of local, slurm and ray, separated by commas.")] = "local,slurm,ray",
    write: Annotated[Path | None, typer.Option(help="Page into which the table is written, between its marks.")] = None,
) -> None:
    """Prints the table; ends with status 1 if the records of two runs differ."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cells = [*TASKS, "-a", attentions, "--pattern", "causal_self", "--preset", "smoke"]
    cells += ["--seeds", ",".join(map(str, range(seeds)))]
    num_cells = len(TASKS) * len(attentions.split(",")) * seeds
    with tempfile.TemporaryDirectory(prefix="share-cells-") as folder:
        setting = Setting(Path(folder), cells)
        (setting.folder / "sitecustomize.py").write_text(claim_times.SITECUSTOMIZE, encoding="ascii")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(ROOT)])
        plan(setting, setting.folder / "data")
        print(f"{num_cells} cells, {os.cpu_count()} cores\n\n{HEAD}", flush=True)
        wanted = only.split(",")
        rows = [local(setting, workers) for workers in LOCAL if "local" in wanted]
        rows += [slurm(setting)] if "slurm" in wanted else []
        rows += [ray(setting, num_cells)] if "ray" in wanted else []
    counts = {len([path for path in row.records if path.endswith(".json")]) for row in rows}
    different = differing(rows)
    same = f"differ from those of {rows[0].name}: {', '.join(different)}" if different else "are the same in all runs"
    print(f"\n{' or '.join(map(str, sorted(counts)))} records a run; they {same}")
    if different or counts != {num_cells}:
        raise typer.Exit(1)
    if write is not None:
        lines = [f"{num_cells} smoke cells on {os.cpu_count()} cores:", "", HEAD, *map(str, rows)]
        write.write_text(filled(write.read_text(encoding="utf-8"), "\n".join(lines)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

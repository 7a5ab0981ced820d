"""Believable records and sweeps for the report's tests: two tasks, six attentions, three seeds, and what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.measuring.points import FILE_NAME, Point, write_points
from benchmark.results import (
    CellConfig,
    CellName,
    DataSource,
    Efficiency,
    Environment,
    MetricValue,
    Record,
    Status,
    write_record,
)

ATTENTIONS = ("softmax", "flash", "lavo", "performer", "cosformer", "none", "my_att")
SEEDS = (0, 1, 2)
_LEVEL = {"softmax": 1.0, "flash": 1.0, "lavo": 1.02, "performer": 1.12, "cosformer": 1.18, "none": 1.6, "my_att": 1.05}
_STEPS = 400


def write_results(directory: Path) -> Path:
    """A folder of results as a run leaves it."""
    for attention in ATTENTIONS:
        for seed in SEEDS:
            write_cell(directory, "forecasting", "informer", "noncausal_self", attention, seed)
            write_cell(directory, "forecasting", "informer", "causal_self", attention, seed)
            write_cell(directory, "language_modeling", "gpt", "causal_self", attention, seed)
    return directory


def write_cell(
    directory: Path, task: str, backbone: str, pattern: str, attention: str, seed: int, **changes: Any
) -> Path:
    """One record with its examples and curves; ``changes`` replace fields of the record.  Returns its path."""
    made = make_record(task, backbone, pattern, attention, seed)
    return write(directory, made._replace(record=replace(made.record, **changes)))


class Made(NamedTuple):
    """A record, and what lies beside it."""

    record: Record
    columns: Mapping[str, np.ndarray]
    curves: Mapping[str, Any]


def write(directory: Path, made: Made) -> Path:
    """Writes it where a run would; a cell that didn't complete has its outcome alone.  Returns the record's path."""
    record, columns, curves = made
    cell = record.cell
    path = directory / cell.task / f"{cell.backbone}.{cell.pattern}.{cell.attention}.s{cell.seed}.{cell.hash}.json"
    if record.is_completed:
        write_record(path, record, columns, curves)
    else:
        write_record(path, replace(record, metrics={}, controls={}, efficiency=Efficiency(), data=DataSource()))
    return path


def with_curves(curves: Mapping[str, Any], folder: Path | None = None, **names: Any) -> Record:
    """A completed record of a cell of these names, for a task's figures; in a folder, which attachments need."""
    cell = {
        "task": "t",
        "backbone": "b",
        "pattern": "p",
        "attention": "a",
        "preset": "smoke",
        "seed": 0,
        "hash": "0" * 12,
    }
    record = Record(CellName(**{**cell, **names}), "completed", curves_file=curves)
    if folder is None:
        return record
    name = "-".join(map(str, vars(record.cell).values()))
    return write_record(folder / f"{name}.json", record, curves=curves)


def make_record(task: str, backbone: str, pattern: str, attention: str, seed: int) -> Made:
    """A completed record, or one of those that go wrong."""
    generator = np.random.default_rng([seed, *attention.encode(), *pattern.encode(), *task.encode()])
    level = _LEVEL[attention] * (1 + 0.01 * generator.standard_normal())
    make = _language_modeling if task == "language_modeling" else _forecasting
    metrics, columns, controls, loss = make(level, generator)
    status, reason = _misfortune(task, pattern, attention, seed)
    steps = np.arange(1, _STEPS + 1)
    noise = 1 + 0.05 * generator.standard_normal(_STEPS)
    validated = np.arange(40, _STEPS + 1, 40)
    headline = next(iter(metrics))
    name = "/".join((task, pattern, attention, str(seed)))
    record = Record(
        cell=CellName(
            task=task,
            backbone=backbone,
            pattern=pattern,
            attention=attention,
            variant=attention,
            preset="quick",
            seed=seed,
            hash=hashlib.sha256(name.encode()).hexdigest()[:12],
        ),
        status=status,
        reason=reason,
        config=CellConfig(
            data={"horizon": 96},
            model={"embed_dim": 64, "num_layers": 2, "positions": "sinusoidal"},
            train={"learning_rate": 3e-4, "steps": _STEPS, "batch_size": 32},
            options={"window": 64} if attention == "lavo" else {},
        ),
        metrics=metrics,
        controls=controls,
        efficiency=Efficiency(
            tokens_per_second=12_000 / level,
            examples_per_second=120 / level,
            base_bytes=int(3e8),
            peak_bytes=int(4e8 * level),
            parameters=213_760 + (12_800 if attention == "lavo" else 0),
            extra_parameters=12_800 if attention == "lavo" else 0,
            train_seconds=21.3 * level,
            kernels={"flash": ["cpu_flash"], "lavo": ["torch"]}.get(attention, ["matmul"]),
        ),
        data=DataSource("embedded", True, "3f2a91c0" * 8),
        environment=Environment(
            python="3.11.9",
            system="Linux x86_64",
            packages={"lavo-bench": "0.1.0", "torch": "2.11.0"},
            device="Some CPU",
            threads=2,
            commit="0123456789abcdef0123456789abcdef01234567",
            dirty=False,
        ),
        started="2026-01-01T00:00:00+00:00",
        seconds=25.0,
    )
    curves = {
        "training": {
            "step": steps,
            "loss": loss * (1 + 2 * np.exp(-steps / 60)) * noise,
            "learning_rate": np.full(_STEPS, 3e-4),
            "seconds": steps * 0.05,
        },
        "validation": {"step": validated, headline: loss * (1.05 + 2 * np.exp(-validated / 60))},
    }
    return Made(record, columns, curves)


def _misfortune(task: str, pattern: str, attention: str, seed: int) -> tuple[Status, str | None]:
    if attention == "cosformer" and pattern == "noncausal_self":
        return "unsupported", "cosformer can't do noncausal_self: it has <no> such form & says_so"
    if attention == "performer" and task == "language_modeling" and seed == 2:
        return "failed", "FloatingPointError: the loss is not finite at step 12"
    return "completed", None


def _forecasting(
    level: float, generator: np.random.Generator
) -> tuple[dict[str, MetricValue], dict[str, Any], Any, float]:
    mse = 0.4 * level * generator.gamma(8, 1 / 8, 200)
    columns = {"mse": mse, "mae": 0.9 * np.sqrt(mse)}
    metrics = {name: MetricValue(float(values.mean()), 200) for name, values in columns.items()}
    controls = {"repeat": {"mse": 1.2943, "mae": 0.7134}, "dlinear": {"mse": 0.4553, "mae": 0.4521}}
    return metrics, columns, controls, 0.4 * level


def _language_modeling(
    level: float, generator: np.random.Generator
) -> tuple[dict[str, MetricValue], dict[str, Any], Any, float]:
    tokens = np.full(64, 512)
    nats = 1.7 * level * tokens * (1 + 0.1 * generator.standard_normal(64))
    columns = {"nats": nats, "num_tokens": tokens, "num_bytes": tokens, "num_words": tokens // 5}
    loss = float(nats.sum() / tokens.sum())
    values = {
        "loss": (loss, "nats/token"),
        "perplexity": (float(np.exp(loss)), "per token"),
        "bits_per_byte": (loss / float(np.log(2)), "bits/byte"),
        "word_perplexity": (None, "per word"),
    }
    metrics = {name: MetricValue(value, 32_768, unit=unit) for name, (value, unit) in values.items()}
    controls = {"unigram": {"loss": 3.21, "perplexity": 24.8, "bits_per_byte": 4.63, "word_perplexity": None}}
    return metrics, columns, controls, loss


def write_sweep(directory: Path, lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)) -> Path:
    """Quadratic exact attentions, linear others, one out of memory and one over its budget at the end."""
    points = []
    for mode, factor in (("forward", 1.0), ("backward", 3.1)):
        for length in lengths:
            for attention in ("softmax", "flash", "lavo", "performer", "my_att"):
                points.append(_point(mode, factor, length, attention))
    path = directory / FILE_NAME
    write_points(path, points)
    return path


def _point(mode: str, factor: float, length: int, attention: str) -> Point:
    seconds = {
        "softmax": 4e-9 * length**2 + 1e-4,
        "flash": 1.6e-9 * length**2 + 1e-4,
        "lavo": 1.7e-6 * length + 2e-4,
        "performer": 3e-6 * length + 2e-4,
        "my_att": 9e-6 * length + 5e-4,
    }[attention] * factor
    held = 8 * 4 * (length**2 if attention == "softmax" else 70 * length) * factor
    point = Point(mode, "causal_self", 1, length, 8, 64, attention, "float32", "cpu")
    if attention == "softmax" and length == 8192:
        return point._replace(status="out_of_memory", reason="RuntimeError: can't allocate memory")
    if attention == "my_att" and length >= 4096:
        return point._replace(
            status="over_budget", reason="by shorter lengths it would take 12 s; a point may take 4 s"
        )
    base = 4 * 8 * 64 * 3 * length
    return point._replace(
        kernel="matmul",
        rounds=7,
        seconds=seconds,
        seconds_low=seconds * 0.96,
        seconds_high=seconds * 1.05,
        compile_seconds=0.01,
        base_bytes=base,
        peak_bytes=base + int(held),
        flops=4 * 8 * 64 * length**2,
        moved_bytes=4 * 8 * 64 * 4 * length,
    )

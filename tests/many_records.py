"""Thousands of small, believable records, to see how long a report of them takes.

By hand: ``python -m many_records 5000 FOLDER`` in ``tests/``, then ``lavo-bench report FOLDER -o REPORT``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import believable

SITES = (
    ("language_modeling", "gpt", "causal_self"),
    ("forecasting", "informer", "noncausal_self"),
    ("forecasting", "informer", "causal_self"),
)
SEEDS = range(10)


def write_many(directory: Path, count: int) -> int:
    """Writes ``count`` records or a few more: tables of seven attentions and ten seeds, at three sites and many horizons.

    Returns how many.
    """
    written, horizon = 0, 96
    while written < count:
        for task, backbone, pattern in SITES:
            for attention in believable.ATTENTIONS if written < count else ():
                for seed in SEEDS:
                    made = believable.make_record(task, backbone, pattern, attention, seed)
                    cell = replace(made.record.cell, hash=f"{horizon:04d}{made.record.cell.hash[:8]}")
                    config = replace(made.record.config, data={"horizon": horizon})
                    believable.write(directory, made._replace(record=replace(made.record, cell=cell, config=config)))
                    written += 1
        horizon += 1
    return written


if __name__ == "__main__":
    print(write_many(Path(sys.argv[2]), int(sys.argv[1])))

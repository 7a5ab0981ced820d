"""The table of docs/data.md says what the manifests say."""

from __future__ import annotations

from pathlib import Path

from benchmark.fetching.manifest import DataSet
from benchmark.fetching.prepare import manifest_of
from benchmark.registry import SHORT_NAMES, TASKS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SHORT = {long: short for short, long in SHORT_NAMES.items()}
SHOWN = {"sha256": "SHA-256", "md5": "MD5", "git_sha1": "git"}


def rows() -> list[str]:
    """The rows of the table, made from the manifests."""
    return [row(SHORT[task], dataset) for task in TASKS for dataset in manifest_of(task).values()]


def row(task: str, dataset: DataSet) -> str:
    sizes = [source.bytes for source in dataset.files]
    total = None if None in sizes or dataset.listing else sum(size or 0 for size in sizes)
    size = (
        f"{sum(dataset.listing.prefixes.values()):,} files"
        if dataset.listing
        else ""
        if total is None
        else megabytes(total)
    )
    if dataset.by_hand:
        size = "by hand"
    checks = {SHOWN[kind] for source in dataset.files for kind in source.digests}
    checks |= {"MD5", "size"} if dataset.listing else set()
    checks |= {"size"} if any(source.bytes for source in dataset.files) else set()
    if any(not source.digests for source in dataset.files):
        checks = {"first"} | (checks - {"size"})
    order = ("SHA-256", "MD5", "git", "size", "first")
    read = ", ".join(f"`{key}={value}`" for key, value in dataset.read_by.items())
    makes = ", ".join(f"`{path}`" for path in dataset.makes)
    checked = ", ".join(one for one in order if one in checks)
    return (
        f"| {task} | `{dataset.name}` | {dataset.title} | {makes} | {size} | {checked} | {dataset.licence} | {read} |"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def test_every_set_has_its_row_and_no_other_stands_there():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| task | `--name` |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append(line)
    assert table == rows(), "\n" + "\n".join(rows())

"""``benchmark.report(results)``: writes a report as ``lavo-bench report`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.settings.messages import ConfigError, one_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pages:
    """The pages of a report, and what could not be shown in them."""

    html: Path
    markdown: Path
    faults: Sequence[str]  # a line for each figure that is left out
    damaged: Sequence[str]  # a line for each file of the results that could not be read

    def __str__(self) -> str:
        missing = [f"not drawn: {line}" for line in self.faults] + [f"left out: {line}" for line in self.damaged]
        return "\n".join([f"report: {self.html}\n        {self.markdown}", *missing])

    def _repr_html_(self) -> str:
        from html import escape

        missing = [f"not drawn: {line}" for line in self.faults] + [f"left out: {line}" for line in self.damaged]
        link = f'<a href="{escape(self.html.as_posix())}">{escape(self.html.as_posix())}</a>'
        return "<br>".join([link, *map(escape, missing)])


def report(
    results: pd.DataFrame | str | Path | Sequence[str | Path], output: str | Path | None = None, *, force: bool = False
) -> Pages:
    """Writes a report of folders of results into ``output``, by default reports/<name of the first folder>.

    results: one folder or several, or a table of ``benchmark.run``, which stands for all records in its folders.
    force: write it even if nothing has changed since it was written.
    Raises UsageError, in one line, for a folder without records.
    """
    from benchmark.report.folders import check_folders
    from benchmark.report.page import build_report

    try:
        folders = _folders(results)
        check_folders(folders)
        target = Path("reports") / folders[0].resolve().name if output is None else Path(output)
        built = build_report(folders, target, force=force)
    except ValueError as error:
        raise ConfigError(one_line(str(error))) from None
    return Pages(built.html, built.markdown, built.faults, built.damaged)


def _folders(results: Any) -> list[Path]:
    if isinstance(results, str | Path):
        return [Path(results)]
    if hasattr(results, "columns"):
        if "path" not in results.columns or not len(results):
            raise ConfigError(
                "report: a table with the column 'path' and one or more rows is wanted, as of benchmark.run"
            )
        # A record lies in the folder of its task, inside the folder of results.
        return list(dict.fromkeys(Path(path).parents[1] for path in results["path"]))
    folders = [Path(folder) for folder in results]
    if not folders:
        raise ConfigError("report: one or more folders of results are wanted")
    return folders

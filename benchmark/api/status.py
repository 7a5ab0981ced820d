"""Shows what is being done: beside a spinner on a terminal, in one changing line in a notebook, not at all elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def console_of(progress: bool) -> Any:
    """Returns rich's console, which knows whether it is a terminal or a notebook; it prints nothing without ``progress``."""
    from rich.console import Console

    return Console(quiet=not progress)


@contextmanager
def status(progress: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a text in place of the one before; after the block nothing of it is left."""
    console = console_of(progress)
    if not progress or not console.is_jupyter:
        with console.status("") as spinner:
            yield spinner.update
        return
    from IPython.display import clear_output, display

    # Rich would need ipywidgets for this.
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    try:
        yield lambda text: handle.update({"text/plain": text}, raw=True)
    finally:
        clear_output()

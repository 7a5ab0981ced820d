"""The command line, ``lavo-bench``: its options, its commands, and the entry point."""

from benchmark.cli.entry import main

__all__ = ["main"]

"""Runs the command line as ``python -m benchmark.cli``, which torchrun needs."""

from benchmark.cli import main

if __name__ == "__main__":
    main()

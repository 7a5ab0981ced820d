"""Cells trained and evaluated: runner, workers, trainer, checkpoints."""

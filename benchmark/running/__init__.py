"""Running cells: the runner, its workers, the trainer and its checkpoints."""

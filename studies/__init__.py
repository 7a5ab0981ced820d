"""Measurements that are not part of a benchmark run.  Each file is one command (docs/efficiency.md)."""

"""Measurements that are not part of a run, one command each (docs/efficiency.md)."""

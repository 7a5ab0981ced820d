"""The domains of the benchmark, one folder each, and what several of them share."""

"""What ``benchmark.run`` and ``benchmark.check`` do; ``benchmark.report`` is in ``benchmark/report/``."""

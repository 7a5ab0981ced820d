"""Starts workers elsewhere for ``lavo-bench run --launcher``: as jobs of SLURM, or as tasks on a Ray cluster.

An engine writes no cell and no record.  It starts processes that each run ``lavo-bench work RESULTS`` (worker.py), and follows the
records that appear (follow.py); the claims on cells decide which process runs which.  So nothing is lost or run twice if a node dies,
and it doesn't matter which engine, or how many, work on a folder.
"""

"""The tables of this folder together."""

from __future__ import annotations

from test_bad_arguments import IN_PYTHON, TENSORS
from test_bad_attention_files import CONSTRUCTORS, INCLUDED
from test_bad_command_lines import COMMAND_LINE
from test_bad_data import BOOK_FAULTS, MANIFESTS, SERIES, SERIES_OPTIONS
from test_bad_results import EFFICIENCY, FOLDERS, MACHINES, RECORDS, SWEEPS
from test_bad_run_files import RUN_FILES
from test_bad_settings import OUTPUTS, SETTINGS


def test_three_hundred_kinds_of_fault_are_covered():
    tables = (COMMAND_LINE, SETTINGS, RUN_FILES, OUTPUTS, INCLUDED, CONSTRUCTORS, SERIES, SERIES_OPTIONS, BOOK_FAULTS)
    tables += (MANIFESTS, RECORDS, FOLDERS, EFFICIENCY, SWEEPS, MACHINES, TENSORS, IN_PYTHON)
    assert sum(map(len, tables)) >= 300

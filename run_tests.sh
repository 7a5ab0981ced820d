#!/usr/bin/env bash
# Lint, format, types, import contracts and the whole test suite; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=.ci/environment.sh
. .ci/environment.sh
prepare_environment dev

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# One single-threaded worker a core: small tensors gain nothing from threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"

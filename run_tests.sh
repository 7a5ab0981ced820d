#!/usr/bin/env bash
# Lint, format, types, import contracts and the tests; arguments go to pytest.
# WITH_SLOW=1 adds the tests marked slow (whole commands, killed processes, documents that are built).
# WITH_FAIRSEQ=1 also installs fairseq (.ci/environment.sh), so that tests/fairseq runs; WITH_SLURM=1 Debian's SLURM, for slow tests of
# tests/launching.  CI sets all three.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=.ci/environment.sh
. .ci/environment.sh
prepare_environment dev
# Compiling goes on beside the checks and the tests that don't need it; those that do come last.
if [ -n "${WITH_FAIRSEQ:-}" ]; then
  prepare_fairseq &
  fairseq=$!
  trap 'kill "$fairseq" 2>/dev/null || true' EXIT
fi
if [ -n "${WITH_SLURM:-}" ]; then
  prepare_slurm &
  slurm=$!
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
[ -z "${slurm:-}" ] || wait "$slurm"
# One single-threaded worker a core: small tensors gain nothing from threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# And one worker more, because some tests wait for processes that they have started.
export PYTEST_XDIST_AUTO_NUM_WORKERS="${PYTEST_XDIST_AUTO_NUM_WORKERS:-$(($(getconf _NPROCESSORS_ONLN) + 1))}"
[ -n "${WITH_SLOW:-}" ] || set -- -m "not slow" "$@"
if [ -z "${WITH_FAIRSEQ:-}" ] && ! .venv/bin/python -c "import fairseq" 2>/dev/null; then
  exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"
fi
status=0
.venv/bin/python -m pytest -n auto --dist worksteal --ignore tests/fairseq "$@" || status=$?
[ -z "${fairseq:-}" ] || wait "$fairseq" || exit 1 # it said why
.venv/bin/python -m pytest -n auto --dist loadfile tests/fairseq || status=$?
exit "$status"

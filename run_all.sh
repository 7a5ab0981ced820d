#!/usr/bin/env bash
# The full comparison: environment, data, every cell of the preset, results and report.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [options of `lavo-bench run`]

Makes .venv on the first call, trains and evaluates every cell of the preset (quick if none is named), and
writes results/<preset>/ and reports/<preset>/. Cells that are done already are not run again.

  --preset NAME       smoke, quick, small, gpu or paper
  --data-root DIR     real data instead of the embedded ones (or set LAVO_BENCH_DATA)
  -o DIR              where records go; the report goes to reports/<last part of DIR>
  -a NAMES            attentions, with commas between
  --seeds 0,1,2       seeds
  --set KEY=VALUE     any setting, as train.steps=100; may be given again
  --jobs N            cells at a time
  --device NAME       cpu, cuda or cuda:N
All other options: .venv/bin/lavo-bench run --help
TEXT
}

for argument in "$@"; do
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done

# shellcheck source=.ci/environment.sh
. .ci/environment.sh
prepare_environment
exec .venv/bin/lavo-bench run all --report "$@"

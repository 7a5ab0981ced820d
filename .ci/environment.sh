# Makes .venv with the pinned set, once; sourced by run_all.sh and run_tests.sh, from the repository's root.
#   prepare_environment        what the benchmark needs
#   prepare_environment dev    and what the tests need

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

prepare_environment() {
  local extra="${1:-}" python stamp wanted
  wanted="$(cat pyproject.toml .ci/constraints.txt | cksum) ${extra}"
  stamp=".venv/.installed${extra:+-$extra}"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  if command -v uv >/dev/null 2>&1; then
    [ -d .venv ] || uv venv --quiet --python '>=3.11,<3.14' .venv
    echo "installing the pinned packages into .venv (about 5 GB, some minutes)"
    uv pip install --quiet --python .venv/bin/python -c .ci/constraints.txt -e ".${extra:+[$extra]}"
  else
    if [ ! -x .venv/bin/python ]; then
      python="$(find_python)" || {
        echo "Python 3.11 or newer is needed, and none was found; install one, or name it: PYTHON=/path/to/python3 $0" >&2
        exit 2
      }
      "$python" -m venv .venv || {
        echo "'$python -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2
        exit 2
      }
    fi
    echo "installing the pinned packages into .venv (about 5 GB, some minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e ".${extra:+[$extra]}"
  fi
  echo "$wanted" >"$stamp"
}

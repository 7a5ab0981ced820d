# Makes .venv with the pinned packages, once.  run_all.sh and run_tests.sh source this file from the repository's root.
#   prepare_environment        installs what the benchmark needs
#   prepare_environment dev    installs also what the tests need
# Versions are those of constraints.txt, from which the committed records come.
#   prepare_fairseq            adds fairseq to it, whose wheel is built once and kept
#   prepare_slurm              installs Debian's SLURM, for root alone

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
  local extra="${1:-bench}" python stamp wanted
  wanted="$(cat pyproject.toml constraints.txt | cksum) ${extra}"
  stamp=".venv/.installed-$extra"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  if command -v uv >/dev/null 2>&1; then
    [ -d .venv ] || uv venv --quiet --python '>=3.11,<3.14' .venv
    echo "installing the pinned packages into .venv (about 5 GB, some minutes)"
    uv pip install --quiet --python .venv/bin/python -c constraints.txt -e ".[$extra]"
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
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]"
  fi
  echo "$wanted" >"$stamp"
}

# fairseq has no wheel for most Pythons and compiles for some four minutes.  Its wheel is therefore kept outside the repository, one
# for each Python and torch, because it is linked with torch's libraries.  Build isolation is off, or pip would fetch another torch.
prepare_fairseq() {
  local python="$PWD/.venv/bin/python" name=fairseq-fixed log key wheels temporary wanted stamp=.venv/.installed-fairseq
  wanted="$(cat pyproject.toml constraints.txt | cksum)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  # An environment that uv made has no pip, which is needed because uv can't build a wheel and keep it.
  "$python" -m pip --version >/dev/null 2>&1 || uv pip install --quiet --python "$python" pip || {
    echo "prepare_fairseq: .venv has no pip, and uv can't install it" >&2
    return 1
  }
  key="$("$python" -c 'import sys, sysconfig, importlib.metadata as m
print(sys.implementation.cache_tag, sysconfig.get_platform(), "torch" + m.version("torch"), sep="-")')"
  wheels="${XDG_CACHE_HOME:-$HOME/.cache}/lavo-bench/wheels/$key"
  mkdir -p "$wheels"
  log="$wheels/$name.log"
  if ! ls "$wheels/${name//-/_}"-*.whl >/dev/null 2>&1; then
    echo "building fairseq for $key, once (some four minutes)"
    temporary="$(mktemp -d "$wheels/.build.XXXXXX")"
    # -g0 leaves out debugging symbols, which would take a quarter of the time.
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt cython numpy setuptools >"$log" 2>&1 &&
      CFLAGS="-g0 ${CFLAGS:-}" "$python" -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation \
        -c constraints.txt -w "$temporary" "$name" >>"$log" 2>&1 &&
      mv -f "$temporary"/*.whl "$wheels/" || {
      echo "prepare_fairseq: the wheel of $name was not built; the last lines of $log: $(tail -n 3 "$log" | tr '\n' ' ')" >&2
      rm -rf "$temporary"
      return 1
    }
    rm -rf "$temporary"
  fi
  "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt --find-links "$wheels" \
    --no-build-isolation "$name" >"$log" 2>&1 || {
    echo "prepare_fairseq: $name was not installed; the last lines of $log: $(tail -n 3 "$log" | tr '\n' ' ')" >&2
    return 1
  }
  echo "$wanted" >"$stamp"
}

# For tests/launching, which skips what needs SLURM where it is missing.  Some 25 seconds, once; the daemons are started by the tests.
prepare_slurm() {
  local log
  if command -v slurmctld >/dev/null 2>&1 && command -v munged >/dev/null 2>&1; then
    return
  fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "prepare_slurm: needs root and apt-get; tests of SLURM will be skipped" >&2
    return
  fi
  log="$(mktemp)"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 ||
    echo "prepare_slurm: not installed, so tests of SLURM will be skipped: $(tail -n 1 "$log")" >&2
  rm -f "$log"
}

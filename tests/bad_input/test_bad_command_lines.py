"""Misspelt commands, options and names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lavo_bench
from refused import PATTERNS, assert_refused, cases

# In these lines "…" stands for `run lm`.
COMMAND_LINE = {
    "unknown command": ("rum", "No such command 'rum'", "Did you mean 'run'"),
    "unknown option": ("… --sed 0", "--sed", "--seeds"),
    "option that isn't one": ("… --steps=3", "--steps", "--set"),
    "short option that isn't one": ("… -q", "-q"),
    "option without its value": ("… --seeds", "--seeds", "argument"),
    "run without a task": ("run", "name a task", "--config"),
    "prepare without a task": ("prepare", "TASK"),
    "check without an attention": ("check", "ATTENTION"),
    "compare without a folder": ("compare", "Missing argument 'A'"),
    "validate without a file": ("validate", "CONFIG"),
    "list of what can't be listed": ("list tusks", "tusks", "'tasks', 'attentions', 'presets', 'results'"),
    "one argument too many": ("list tasks more", "more"),
    "task misspelt": ("run forcasting", "task 'forcasting'", "did you mean forecasting?", "known: language_modeling"),
    "task in capitals": ("run LM", "task 'LM'", "known: language_modeling"),
    "task that is a path": ("run ../lm", "task '../lm'", "known:"),
    "second of two tasks unknown": ("run lm nope", "task 'nope'", "known:"),
    "task to prepare unknown": ("prepare nope", "task 'nope'", "known:"),
    "attention misspelt": ("… -a lavoo", "attention 'lavoo'", "did you mean lavo?", "known: lavo, softmax"),
    "one of two attentions unknown": ("… -a softmax,flsh", "'flsh'", "did you mean flash?"),
    "attention in capitals": ("… -a LAVO", "'LAVO'", "known: lavo"),
    "no attention": ("… -a ,", "--attention ','", "one or more"),
    "attention to check unknown": ("check lavoo", "'lavoo'", "did you mean lavo?"),
    "pattern to check unknown": ("check lavo --pattern causal", "'causal'", "did you mean causal_self?", PATTERNS),
    "backbone misspelt": ("… --backbone gtp", "backbone 'gtp'", "did you mean gpt?", "allowed: gpt"),
    "backbone of another task": ("… --backbone informer", "'informer'", "allowed: gpt"),
    "no backbone": ("… --backbone ,", "--backbone ','"),
    "pattern misspelt": ("… --pattern causal", "pattern 'causal'", "did you mean causal_self?", PATTERNS),
    "pattern that the task lacks": ("… --pattern noncausal_self", "'noncausal_self'", "allowed: causal_self"),
    "pattern that the chosen backbone lacks": (
        "run lm lstf --backbone gpt --pattern noncausal_cross",
        "'noncausal_cross'",
        "allowed: causal_self",
    ),
    "no pattern": ("… --pattern ,", "--pattern ','"),
    "preset misspelt": ("… --preset smok", "--preset", "'smok'", "did you mean smoke?", "allowed: smoke, quick"),
    "preset to prepare misspelt": ("prepare lm --preset smok", "--preset", "'smok'", "did you mean smoke?"),
    "seed below zero": ("… --seeds -1", "--seeds", "-1", "from 0 to 2^32 - 1"),
    "seed beyond 32 bits": ("… --seeds 4294967296", "--seeds", "4294967296", "from 0 to 2^32 - 1"),
    "seed that is text": ("… --seeds x", "--seeds", "'x'", "whole number"),
    "seed with a fraction": ("… --seeds 1.5", "--seeds", "'1.5'", "whole number"),
    "seeds with semicolons": ("… --seeds 0;1", "--seeds", "'0;1'", "whole number"),
    "range of seeds": ("… --seeds 0-2", "--seeds", "'0-2'", "whole numbers"),
    "no seed": ("… --seeds ,", "--seeds ','"),
    "limit of nothing": ("… --limit 0", "--limit 0", "greater than or equal to 1"),
    "limit below zero": ("… --limit=-3", "--limit -3", "greater than or equal to 1"),
    "limit that is text": ("… --limit many", "--limit many", "integer"),
    "limit with a fraction": ("… --limit 1.5", "--limit 1.5", "integer"),
    "no jobs": ("… --jobs 0", "--jobs 0", "greater than or equal to 1"),
    "jobs that are text": ("… --jobs two", "--jobs two", "integer"),
    "launcher unknown": ("… --launcher slrum", "--launcher slrum", "'local', 'slurm', 'ray'"),
    "workers without a launcher": ("… --workers 2", "--workers", "--launcher slurm or ray", "--jobs"),
    "option without a launcher": ("… --launcher-option gpus=1", "--launcher-option", "--launcher slurm or ray"),
    "no workers": ("… --launcher ray --workers 0", "--workers 0", "greater than or equal to 1"),
    "option of a launcher misspelt": (
        "… --launcher slurm --launcher-option partiton=a",
        "--launcher-option partiton: unknown key 'partiton'",
        "did you mean partition?",
    ),
    "option of another launcher": (
        "… --launcher ray --launcher-option partition=a",
        "'partition'",
        "address, cpus, gpus",
    ),
    "option of a launcher without its value": (
        "… --launcher ray --launcher-option cpus",
        "'cpus'",
        "must be key=value",
    ),
    "GPUs that are text": ("… --launcher slurm --launcher-option gpus=two", "gpus = 'two'", "whole number"),
    "option of sbatch that isn't one": (
        "… --launcher slurm --launcher-option sbatch.--qos=a",
        "--launcher-option sbatch",
        "sbatch.reservation=NAME",
    ),
    "time that ends before it begins": (
        "… --launcher slurm --launcher-option time=2",
        "--launcher-option time=2: 120 seconds; more than 150 are wanted",
    ),
    "address that isn't one": ("… --launcher ray --launcher-option address=here", "address = 'here'"),
    "address of Ray's client": (
        "… --launcher ray --launcher-option address=ray://a:1",
        "Ray's client is not supported",
    ),
    "records in an object store": ("… -o s3://bucket/a", "-o s3:/bucket/a", "object store", "shared file system"),
    "device unknown": ("… --device tpu", "--device tpu", "allowed: cpu, cuda, cuda:N"),
    "device of another kind": ("… --device mps", "--device mps", "allowed: cpu, cuda, cuda:N"),
    "processor with a number": ("… --device cpu:3", "--device cpu:3", "allowed: cpu, cuda, cuda:N"),
    "GPU that isn't there": ("… --device cuda:99", "--device cuda:99", "CUDA devices"),
    "sequences in parts for an attention that can't": (
        "… -a lavo,softmax --set train.parallel=sequence",
        "--set train.parallel=sequence: train.parallel = 'sequence'",
        "softmax at causal_self of gpt",
        "those that can: lavo",
        "'data' and 'fsdp' are allowed",
    ),
    "sequences in parts for a task that can't": (
        "run lm lstf -a lavo --set train.parallel=sequence",
        "train.parallel = 'sequence'",
        "forecasting can't cut",
        "allowed: 'data'",
    ),
    "task of 5,000 signs": (f"run {'x' * 5000}", "task 'xxx", "xxx…", "pcc, lstf"),
    "option of 5,000 signs": (f"run lm --{'x' * 5000}", "No such option: --xxx", "xxx…xxx"),
    "attention of 5,000 signs": (f"run lm -a {'x' * 5000}", "attention 'xxx", "xxx…"),
    "argument with a terminal's control signs": ("run \x1b[31mlm", "'\\x1b[31mlm'"),
    "extra argument with control signs": ("list tasks \x1b[31m", "(\\x1b[31m)"),
    "data root that isn't there": ("… --data-root nowhere", "--data-root", "nowhere", "no such folder"),
}


@cases(COMMAND_LINE)
def test_a_wrong_command_line_is_refused(case):
    line, *words = case
    assert_refused(lavo_bench(*line.replace("…", "run lm").split(" ")), words)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "lmm"], "lmm"),
        (["run", "lm", "--set", "train.stepz=3"], "stepz"),
        (["validate", "gone.yaml"], "gone.yaml"),
    ],
    ids=["a name", "a setting", "a file"],
)
def test_the_command_itself_ends_with_status_2_and_one_line(arguments, word):
    program = Path(sys.executable).with_name("lavo-bench")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert word in done.stderr


def test_the_bare_command_shows_its_help():
    answer = lavo_bench()
    assert answer.status == 2
    assert "Usage:" in answer.err
    assert "prepare" in answer.err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="lmm"):
        lavo_bench("run", "lmm", "--debug")

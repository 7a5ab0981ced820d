"""Python runs this at its start where tests/test_kills.py has put the folder on PYTHONPATH: it shoots at the n-th file operation.

LAVO_BENCH_SHOTS names a folder of waiting shots, JSON files that are renamed when a process takes one and when it fires:
Its name says who counts: parent or worker.  Its content:
operation  the number of the operation
before     whether the shot comes before the operation or after it
whom       self, parent or group: who gets the signal
signal     its number
"""

import json
import os
import sys

FOLDER = os.environ.get("LAVO_BENCH_SHOTS", "")
OPERATIONS = ("open", "replace", "rename", "fsync", "unlink", "remove", "mkdir", "rmdir", "chmod")
_rename, _open = os.rename, os.open


def _role() -> str | None:
    """What this process is in a run; None for helpers such as the guard, which are left alone."""
    line = " ".join(sys.orig_argv)
    if "spawn_main" in line:
        return "worker"
    return "parent" if "from benchmark.cli import main" in line else None


def _take(role: str) -> tuple[str, dict] | None:
    """The first waiting shot for this role, taken by renaming its file, which only one process can do."""
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith(f".{role}.waiting"):
            continue
        taken = os.path.join(FOLDER, name.replace(".waiting", ".taken"))
        try:
            _rename(os.path.join(FOLDER, name), taken)
        except OSError:
            continue
        with open(taken, encoding="utf-8") as file:
            return taken, json.load(file)
    return None


def _arm(taken: str, shot: dict) -> None:
    """Counts the operations from now on, and fires at the one that the shot names."""
    done = 0

    def fire() -> None:
        run = os.getpgid(0)  # the run leads the group; getppid() names a stranger once the run is gone
        if shot["whom"] == "parent" and not os.path.exists(f"/proc/{run}"):
            return
        _rename(taken, taken.replace(".taken", ".fired"))
        if shot["whom"] == "group":
            os.killpg(0, shot["signal"])
        else:
            os.kill(os.getpid() if shot["whom"] == "self" else run, shot["signal"])

    def counting(name: str):
        original = getattr(os, name)

        def operation(*arguments, **named):
            nonlocal done
            if name == "open" and not (arguments[1:] and arguments[1] & os.O_CREAT):  # reading changes nothing
                return original(*arguments, **named)
            done += 1
            if done == shot["operation"] and shot["before"]:
                fire()
            try:
                return original(*arguments, **named)
            finally:
                if done == shot["operation"] and not shot["before"]:
                    fire()

        return operation

    for name in OPERATIONS:
        setattr(os, name, counting(name))


if FOLDER and (role := _role()) is not None and (found := _take(role)) is not None:
    _arm(*found)

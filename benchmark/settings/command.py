"""Turns the options of a command into names, runs with their overrides, options of attentions, a device and a cache."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmark.registry import check_options, include_file, load_attention
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.models import Override, RunSettings
from benchmark.settings.shipped import run_file
from benchmark.settings.yaml_files import parse_assignment, read_run_file

Run = tuple[RunSettings, list[Override]]

_FLAGS = {"attentions": "--attention", "backbones": "--backbone", "patterns": "--pattern"}


def names_in(text: str | None, flag: str) -> list[str] | None:
    """Splits a text at its commas into names; None stays None.  Raises ConfigError if there is no name in it."""
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"{flag} {text!r}: one or more names are wanted, separated by commas")
    return names


def factors_in(text: str) -> list[float]:
    """Reads factors such as ``1/3,1,3``.  Raises ConfigError unless they are two or more distinct positive numbers."""
    factors = []
    for part in names_in(text, "--grid") or []:
        try:
            factors.append(float(Fraction(part)))
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"--grid {part!r}: not a number; numbers such as 1/3,1,3 are wanted") from None
    if len(set(factors)) < 2 or len(set(factors)) < len(factors) or min(factors) <= 0:
        raise ConfigError(f"--grid {text!r}: two or more different positive factors are wanted, as 1/3,1,3")
    return factors


def run_settings(values: Mapping[str, Any]) -> RunSettings:
    """Returns the checked settings of a run.  Raises ConfigError that names the option of the command line."""

    def origin(key: str) -> str:
        first = key.partition(".")[0]
        return _FLAGS.get(first, f"--{first.replace('_', '-')}")

    return validate(RunSettings, values, origin)


def runs_of(config: Path | None, options: Mapping[str, Any], assignments: Sequence[str]) -> list[Run]:
    """Returns the runs of the file, or one run without a file, changed by the options of the command line.

    options       field of ``RunSettings`` -> value; None keeps the value of the file, or the default
    assignments   the texts of ``--set``; they override those of the file

    Raises ConfigError.
    """
    if not options.get("tasks") and config is None:
        raise ConfigError("run: name a task, all, or a file of runs with --config")
    given = {key: value for key, value in options.items() if value is not None}
    overrides = [parse_assignment(text) for text in assignments]
    runs = read_run_file(run_file(config)) if config is not None else [(RunSettings(), [])]
    changed = []
    for settings, own in runs:
        whole = run_settings({**settings.model_dump(exclude_unset=True), **given})
        changed.append((whole.with_origin(settings.origin), [*own, *overrides]))
    return changed


def output_of(runs: Sequence[Run], config: Path | None) -> Path:
    """Returns the default folder of records: ``results/`` with the name of the run file, or of the preset without a file."""
    return Path("results") / (config.stem if config is not None else runs[0][0].preset)


def options_by_attention(texts: Sequence[str], attentions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parses texts such as ``lavo.window=32`` into attention -> option -> value.

    Raises ConfigError for a text of another form, or with an attention that is not among ``attentions``.  Raises ValueError
    for an option that the attention doesn't have.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, value = parse_assignment(text, "--option")[:2]
        name, _, own = key.partition(".")
        if not own or name not in attentions:
            raise ConfigError(
                f"--option {text}: must be ATTENTION.OPTION=VALUE, as lavo.window=32, for an attention that is measured"
            )
        options.setdefault(name, {})[own] = value
    for name, chosen in options.items():
        check_options(name, load_attention(name), chosen)
    return options


def include_files(paths: Sequence[Path] | None) -> tuple[Path, ...]:
    """Registers the attentions of these files and returns their full paths.  Raises ValueError that names the file.

    What a file prints is not shown.  What it changes in this process is changed back, because after ``os.chdir`` a relative
    ``-o`` would lead elsewhere.
    """
    full = tuple(path.resolve() for path in paths or [])
    for path in full:
        with process_state_kept():
            include_file(path)
    return full


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Discards what is printed in the block, and restores what an included file may change in this process.

    That is the working folder, the environment, the umask, and torch's global modes if torch is loaded.
    """
    folder, environment, mask = Path.cwd(), dict(os.environ), os.umask(0o022)
    os.umask(mask)
    modes = _torch_modes()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.umask(mask)
        if "torch" in sys.modules:
            import torch

            dtype, device, grad = modes or (torch.float32, None, True)
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
            torch.set_grad_enabled(grad)


def _torch_modes() -> tuple[Any, Any, bool] | None:
    """Returns torch's default dtype and device, and whether it records gradients; None if torch isn't loaded."""
    if "torch" not in sys.modules:
        return None
    import torch

    default = getattr(torch, "get_default_device", lambda: torch.device("cpu"))()
    device = None if default.type == "cpu" else default  # None also switches off the mode that any other value sets
    return torch.get_default_dtype(), device, torch.is_grad_enabled()


def cache_folder(path: Path | None) -> Path:
    """Returns the folder for tokenised data, creating it if needed; None means the user's cache.  Raises ConfigError."""
    if path is None:
        import pooch

        path = Path(pooch.os_cache("lavo-bench"))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--cache {path}: no folder can be made there: {error.strerror}") from None
    return path


def device_of(name: str | None, *, here: bool = True) -> str:
    """Checks the device's name; None means the GPU if there is one, else the CPU.

    here: whether this machine must have the device.  Raises ConfigError for a bad name.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; allowed: cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index is not None):
        raise ConfigError(f"--device {name}: allowed: cpu, cuda, cuda:N")
    if here and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return name

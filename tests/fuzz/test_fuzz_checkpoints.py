"""Checkpoints of any content: training starts anew where they can't be used, and ends with the same weights."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import Killed, make_trainer, weights

from benchmark.running import checkpoint

NAMES = (checkpoint.LAST, checkpoint.BEST)


@pytest.fixture(scope="module")
def expected():
    """The weights of an undisturbed training."""
    torch.set_num_threads(1)
    trainer = make_trainer(Path("whole"), checkpoint_every=3)
    trainer.run()
    return weights(trainer)


@pytest.fixture(scope="module")
def left():
    """The files that a kill at step 10 leaves."""

    def kill(progress: Any) -> None:
        if progress.step == 10:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(Path("killed"), checkpoint_every=3, report=kill).run()
    return {name: (Path("killed") / name).read_bytes() for name in NAMES}


def sealed(content: Any) -> bytes:
    """A file whose digest is right, whatever its content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return with_digest(buffer.getvalue())


def with_digest(saved: bytes) -> bytes:
    return saved + hashlib.sha256(saved).digest()


def content_of(data: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(data[:-32]), weights_only=True)


def assert_ends_equal(files: dict[str, bytes | None], expected: dict[str, torch.Tensor]) -> None:
    folder = Path("resumed")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)
    torch.manual_seed(99)
    trainer = make_trainer(folder, checkpoint_every=3)
    trainer.run()
    found = weights(trainer)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert trainer.state.step == 12


@examples(25)
@given(st.sampled_from(NAMES), st.data())
def test_bytes_that_were_lost_or_changed(left, expected, name, data):
    whole = left[name]
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                whole[:place],
                whole[place:],
                whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
                b"",
                whole * 2,
            ]
        )
        | st.binary(max_size=200)
        | st.binary(max_size=200).map(with_digest)
    )
    assert_ends_equal({**left, name: damaged}, expected)


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("hacked"),))


def others(whole: dict[str, Any]) -> dict[str, Any]:
    """Contents of older formats, of other models and of other programs, each with a right digest."""
    state, model = whole.get("state", {}), whole["model"]
    first = next(iter(model))
    return {
        "a list": [1, 2],
        "nothing": {},
        "text": "x",
        "weights alone": model,
        "no weights": {key: value for key, value in whole.items() if key != "model"},
        "no optimizer": {key: value for key, value in whole.items() if key != "optimizer"},
        "no random states": {key: value for key, value in whole.items() if key != "random"},
        "random states of another kind": {**whole, "random": {"cpu": torch.zeros(3)}},
        "random states that are text": {**whole, "random": {"cpu": "x"}},
        "no course": {key: value for key, value in whole.items() if key != "state"},
        "a course without a field": {**whole, "state": {key: state[key] for key in list(state)[1:]}},
        "a course with another field": {**whole, "state": {**state, "epoch": 3}},
        "weights of other names": {**whole, "model": {f"module.{key}": value for key, value in model.items()}},
        "weights of another shape": {**whole, "model": {**model, first: torch.zeros(3, 3)}},
        "a weight too many": {**whole, "model": {**model, "more": torch.zeros(3)}},
        "a weight too few": {**whole, "model": {key: model[key] for key in model if key != first}},
        "weights that are numbers": {**whole, "model": dict.fromkeys(model, 1.0)},
        "an optimizer of other parameters": {**whole, "optimizer": {"state": {}, "param_groups": []}},
        "an optimizer that is a number": {**whole, "optimizer": 3},
        "code": Runs(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_of_another_format_or_model(left, expected, name):
    for kind, content in others(content_of(left[name])).items():
        if name == checkpoint.BEST and isinstance(content, dict) and "model" in content:
            content = {key: value for key, value in content.items() if key in ("model", "step")}
            if kind.startswith(("no ", "random", "a course", "an optimizer")) and kind != "no weights":
                continue  # as it was
        assert_ends_equal({**left, name: sealed(content)}, expected)
    assert not Path("hacked").exists()


def test_files_that_are_missing_or_exchanged(left, expected):
    last, best = (left[name] for name in NAMES)
    for pair in ((last, None), (None, best), (best, last), (last, last), (best, best), (last[:-32], best[:-32])):
        assert_ends_equal(dict(zip(NAMES, pair, strict=True)), expected)

"""Data parallel and fully sharded training (FSDP2): 2 and 3 processes end where one does, and continue what other numbers saved."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import together_ranks
import torch
from process_group import free_port

from benchmark.running import checkpoint
from benchmark.running.norms import shared_norms
from benchmark.running.parallel import ByExamples
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, TrainSettings
from benchmark.settings.resolve import check_parallel
from benchmark.settings.yaml_files import parse_assignment
from tasks.text_to_speech import transformer_tts

ROOT = Path(__file__).parents[1]
TOLERANCE = 5e-6  # float32: terms are added up in another order; measured: 2e-7
TOLERANCES = {"pointr": 2e-3}  # rounding changes which points are nearest neighbours, and which point is the next seed
WORLDS = (2, 3)
WAYS = together_ranks.WAYS


def launch(world, folder):
    """Runs together_ranks.py in this many processes, and returns what each has left."""
    port = free_port()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }
    command = [sys.executable, together_ranks.__file__]
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(port), str(folder)], env=environment, cwd=ROOT)
        for rank in range(world)
    ]
    try:
        until = time.monotonic() + 300
        while any(process.poll() is None for process in started) and time.monotonic() < until:
            assert not any(process.poll() for process in started)  # the others would wait for it
            time.sleep(0.1)
        assert [process.poll() for process in started] == [0] * world
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}_of_{world}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where checkpoints and results lie."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path_factory.mktemp("parallel")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(folder):
    """Case -> what one process leaves of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_tts, "PRENET_DROPOUT", 0.0)
        return {
            name: together_ranks.trained(together_ranks.make_trainer(folder, case, "data"))
            for name, case in together_ranks.CASES.items()
        }


@pytest.fixture(scope="module")
def together(folder, alone):
    """Number of processes -> what each leaves.  Two continue what one has saved, and three what two have saved in each way."""
    place = folder / "saved by 1 with data"
    together_ranks.stop_after_checkpoint(
        together_ranks.make_trainer(folder, together_ranks.CASES["gpt"], "data", place)
    )
    shutil.copytree(place, folder / "for 2 from 1")
    found = {2: launch(2, folder)}
    for way in WAYS:
        shutil.copytree(folder / f"saved by 2 with {way}", folder / f"for 3 from 2 with {way}")
    return found | {3: launch(3, folder)}


def assert_same(got, want, tolerance=TOLERANCE):
    assert got["loss"] == pytest.approx(want["loss"], rel=tolerance)
    assert got["tokens"] == want["tokens"]
    assert got["validation"].keys() == want["validation"].keys()
    for name, values in want["validation"].items():
        assert got["validation"][name] == pytest.approx(values, rel=10 * tolerance)
    assert got["weights"].keys() == want["weights"].keys()
    for name, right in want["weights"].items():
        assert got["weights"][name].shape == right.shape
        # A bias of the keys shifts all scores of a query alike, so its gradient, and its value, is rounding alone.
        assert (got["weights"][name] - right).float().norm() <= 10 * tolerance * max(right.float().norm(), 0.1), name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("world", "case"), [(2, case) for case in together_ranks.CASES] + [(3, case) for case in together_ranks.WITH_THREE]
)
def test_several_processes_train_as_one(world, way, case, together, alone):
    assert abs(alone[case]["loss"][-1] / alone[case]["loss"][0] - 1) > 0.01
    for results in together[world]:
        assert_same(results[f"{case}, {way}"], alone[case], TOLERANCES.get(case, TOLERANCE))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_serves_any_number_of_processes(way, together, alone, folder):
    """1 -> 2, 2 -> 3 and 2, 3 -> 1: at the end stand the losses of one process that was never stopped."""
    for world, saved in ((2, ["from 1"]), (3, [f"from 2 with {other}" for other in WAYS])):
        for name in saved:
            for results in together[world]:
                assert_same(results[f"for {world} {name}, {way}"], alone["gpt"])
    for world in WORLDS:
        place = folder / f"saved by {world} with {way}"
        assert checkpoint.load(place / checkpoint.LAST)["state"]["step"] == together_ranks.HALF
        trainer = together_ranks.make_trainer(folder, together_ranks.CASES["gpt"], "data", place)
        steps = []
        trainer.report = lambda progress, steps=steps: steps.append(progress.step)
        assert_same(together_ranks.trained(trainer), alone["gpt"])
        assert steps[0] == together_ranks.HALF + 1  # it did continue


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_same_number_of_processes_resumes_to_the_bit_with_dropout(world, way, together):
    for results in together[world]:
        undisturbed, resumed = results[f"undisturbed, {way}"], results[f"resumed, {way}"]
        assert resumed["loss"] == undisturbed["loss"]
        assert all(torch.equal(resumed["weights"][name], right) for name, right in undisturbed["weights"].items())
    draws = [results[f"undisturbed, {way}"]["loss"] for results in together[world]]
    assert draws == [draws[0]] * world  # the loss is that of all


@pytest.mark.slow
def test_shares_of_the_weights_lie_in_different_processes(together, folder):
    """A checkpoint of two processes holds whole tensors all the same, of the optimizer too."""
    for way in WAYS:
        saved = checkpoint.load(folder / f"saved by 2 with {way}" / checkpoint.LAST)
        one = checkpoint.load(folder / "saved by 1 with data" / checkpoint.LAST)
        assert saved["optimizer"]["param_groups"] == one["optimizer"]["param_groups"]
        assert saved["optimizer"]["state"].keys() == one["optimizer"]["state"].keys()
        for number, state in one["optimizer"]["state"].items():
            for name, right in state.items():
                got = saved["optimizer"]["state"][number][name]
                assert got.shape == right.shape
                assert (got - right).norm() <= 1e-3 * right.norm() + 1e-7


def test_half_precision_is_refused_for_shares():
    train = TrainSettings(steps=1, batch_size=2, learning_rate=1.0, precision="float16", parallel="fsdp")
    override = parse_assignment("train.parallel=fsdp")
    with pytest.raises(ConfigError, match=r"train.parallel = 'fsdp': not with train.precision = 'float16'; allowed: "):
        check_parallel("language_modeling", "gpt", "causal_self", "lavo", train, [override])
    assert AttentionSpec(name="lavo")


@pytest.mark.parametrize(
    ("norms", "size", "want"),
    [
        ([], 2, [[(0, 2), (4, 6)], [(1, 3), (5,)]]),  # two processes need half as many micro-batches as one
        (["a norm"], 2, [[(0,), (2,), (4,), (6,)], [(1,), (3,), (5,), None]]),  # those of one process, shared
        ([], None, [[(0, 2, 4, 6)], [(1, 3, 5)]]),
        (["a norm"], None, [[(0, 2, 4, 6)], [(1, 3, 5)]]),
    ],
)
def test_processes_share_micro_batches_only_where_batch_norms_see_them(norms, size, want):
    for rank, micro_batches in enumerate(want):
        way = SimpleNamespace(norms=norms, world=2, rank=rank)
        shares = ByExamples.shares(way, range(7), size)
        assert [tuple(share.indices) if share.weight else None for share in shares] == micro_batches


def test_a_model_without_batch_norm_needs_no_group_of_processes():
    assert shared_norms(torch.nn.Linear(2, 2)) == []

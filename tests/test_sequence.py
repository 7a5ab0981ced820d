"""Sequence parallel training of language modelling: 2 and 3 processes leave what one process leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sequence_ranks
import torch
from process_group import free_port
from toy_task import Toy, ToySettings

from benchmark.multihead import AttentionSites
from benchmark.running.sequence import SequenceParallel
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.yaml_files import parse_assignment

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5  # float32: parts are added up in another order
WORLDS = (2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the texts lie."""
    path = tmp_path_factory.mktemp("sequence")
    sequence_ranks.write_books(path / "data")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield path
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def together(request, folder):
    """The results of each process."""
    port = free_port()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }
    sequence_ranks.make_trainer(folder)  # fills the cache
    command = [sys.executable, sequence_ranks.__file__]
    started = [
        subprocess.Popen([*command, str(rank), str(request.param), str(port), str(folder)], env=environment, cwd=ROOT)
        for rank in range(request.param)
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0] * request.param
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}_of_{request.param}.pt", weights_only=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone(folder):
    """alone(case): what one process leaves of it."""
    found = {}

    def train(name):
        if name not in found:
            found[name] = sequence_ranks.trained(folder, **sequence_ranks.CASES[name])
        return found[name]

    return train


def assert_same_training(got, want):
    assert got["loss"] == pytest.approx(want["loss"], rel=TOLERANCE)
    assert got["validation"] == pytest.approx(want["validation"], rel=TOLERANCE)
    assert got["weights"].keys() == want["weights"].keys()
    for name, right in want["weights"].items():
        # A bias of the keys shifts all scores of a query alike, so its gradient, and its value, is rounding alone.
        assert (got["weights"][name] - right).norm() <= TOLERANCE * max(right.norm().item(), 0.1), name


@pytest.mark.slow
@pytest.mark.parametrize("case", sequence_ranks.CASES)
def test_several_processes_train_as_one(together, alone, case):
    want = alone(case)
    assert want["loss"][-1] < want["loss"][0] - 0.1
    for results in together:
        assert_same_training(results[case], want)
        assert results[case]["tokens"] == want["tokens"]


@pytest.mark.slow
def test_processes_that_share_out_examples_train_as_one(together, folder):
    want = sequence_ranks.trained(folder, **sequence_ranks.WHOLE_EXAMPLES)
    for results in together:
        assert_same_training(results["whole examples"], want)
        assert results["whole examples"]["bytes"] == 0
        assert results["whole examples"]["tokens"] == want["tokens"]


@pytest.mark.slow
def test_each_part_has_dropout_of_its_own_and_weights_stay_the_same(together):
    """Where a later draw differs between processes, so did all masks before it."""
    first, *others = [results["dropout"] for results in together]
    assert len({results["draw"] for results in (first, *others)}) == len(together)
    for other in others:
        assert other["loss"] == first["loss"]
        assert all(torch.equal(tensor, first["weights"][name]) for name, tensor in other["weights"].items())


@pytest.mark.slow
def test_bytes_sent_are_those_of_the_memory_where_parts_are_windows(together):
    """Forward and backward; two layers; a rank of float64 for each head and each other process."""
    batch = (17 + 3) / 7  # examples of a step: an epoch of 17 is six steps, and a seventh has 3
    memory = 2 * 2 * 2 * 8 * 8 * (len(together) - 1)
    for results in together:
        assert results["positions by the attention"]["bytes"] == pytest.approx(batch * memory, abs=0.1)


def test_one_process_trains_as_without(folder):
    case = {"train": {"steps": 2}}
    asked, ordinary = (sequence_ranks.trained(folder, parallel=name, **case) for name in ("sequence", "data"))
    assert asked["loss"] == ordinary["loss"]
    assert asked["bytes"] == 0


def test_the_way_of_training_is_in_no_hash_and_no_settings_of_a_record(folder):
    run = RunSettings(tasks=["lm"], attentions=["lavo"], preset="smoke", data_root=folder / "data")
    sizes = ["data.context_length=48", "eval.lengths=[1]"]
    cells = [
        plan_cells([(run, [parse_assignment(text) for text in [*sizes, *more]])], folder / "cache")[0]
        for more in ([], ["train.parallel=data"], ["train.parallel=sequence"])
    ]
    assert len({cell.hash for cell in cells}) == 1
    assert cells[0].config == cells[1].config == cells[2].config
    assert [cell.parallel for cell in cells] == ["data", "data", "sequence"]


def test_parts_of_a_batch_add_up_to_it(folder):
    trainer = sequence_ranks.make_trainer(folder)
    task, layer = trainer.task, trainer.bare.blocks[0].attention.attention
    blocks = trainer.splits.train
    batch = task.collate([blocks[0], blocks[int(blocks.lengths.argmin())]])
    for num_parts in (1, 2, 3, 9):
        whole = [
            layer.make_part(task.sequence_length(batch), num_parts=num_parts, rank=rank) for rank in range(num_parts)
        ]
        parts = [task.part_of(batch, part) for part in whole]
        for name in ("inputs", "targets"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts], 1), getattr(batch, name))
        for name in ("num_tokens", "num_bytes", "num_words"):
            assert torch.equal(sum(getattr(part, name) for part in parts), getattr(batch, name))


def test_a_model_or_task_that_cannot_do_with_parts_is_refused(folder):
    trainer = sequence_ranks.make_trainer(folder)
    softmax = trainer.task.build_model(AttentionSites("softmax", "causal_self", {}))
    with pytest.raises(ValueError, match="SoftmaxAttention can't attend over a sequence in parts"):
        SequenceParallel(trainer.task, softmax, num_parts=2, rank=0)
    toy = Toy(ToySettings(), backbone="net")
    with pytest.raises(ValueError, match="toy can't cut its batches"):
        SequenceParallel(toy, trainer.bare, num_parts=2, rank=0)

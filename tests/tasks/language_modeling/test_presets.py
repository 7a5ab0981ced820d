"""Every preset is valid, the published one has the published size, and the card says what it must."""

import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import tasks.language_modeling
from benchmark.interface import PRESETS
from benchmark.measuring.memory import allocated_by
from benchmark.multihead import AttentionSites
from benchmark.results import records
from benchmark.running.trainer import make_optimizer
from benchmark.settings.models import TrainSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.shipped import CONFIGS
from benchmark.settings.tuned import Rates
from benchmark.settings.yaml_files import read_run_file
from tasks.language_modeling.figures import figures
from tasks.language_modeling.gpt import GPT
from tasks.language_modeling.task import LanguageModelingSettings

FOLDER = Path(tasks.language_modeling.__file__).parent


def merged(name):
    """base, then the preset, group by group."""
    presets = yaml.safe_load((FOLDER / "presets.yaml").read_text(encoding="utf-8"))
    assert set(presets) == {"base", *PRESETS}
    seeds = presets[name].pop("seeds")
    assert seeds == sorted(set(seeds))
    assert set(presets[name]) <= set(presets["base"])
    groups = {group: {**values, **presets[name].get(group, {})} for group, values in presets["base"].items()}
    train = TrainSettings(**groups.pop("train"))
    return LanguageModelingSettings(**groups), train


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_reach_sixteen_times_the_training_length(name):
    settings, train = merged(name)
    assert settings.eval.lengths == (1, 2, 4, 8, 16)
    assert train.steps is not None
    assert settings.data.excerpt_bytes >= 16 * settings.data.context_length or settings.data.max_test_bytes is None
    assert train.eval_every is not None
    assert train.steps % train.eval_every == 0


def test_paper_is_the_published_protocol(sites):
    settings, train = merged("paper")
    with torch.device("meta"):
        model = GPT(
            sites(),
            vocab_size=50_257,
            embed_dim=settings.model.embed_dim,
            num_layers=settings.model.num_layers,
            num_heads=settings.model.num_heads,
            context_length=settings.data.context_length,
            positions=settings.model.positions,
        )
    layer = 4 * (768 * 768 + 768) + 768 * 3072 + 3072 + 3072 * 768 + 768 + 4 * 768
    assert sum(parameter.numel() for parameter in model.parameters()) == 50_257 * 768 + 12 * layer + 2 * 768
    assert (settings.data.context_length, settings.data.tokens, settings.model.positions) == (
        8192,
        "gpt2",
        "sinusoidal",
    )
    assert train.batch_size * settings.data.context_length == 131_072
    assert (train.steps, train.warmup_steps, train.schedule, train.learning_rate) == (
        125_000,
        10_000,
        "inverse_sqrt",
        5e-4,
    )
    assert (train.betas, train.weight_decay, train.clip_norm, train.precision) == ((0.9, 0.999), 0.01, None, "float32")


@pytest.mark.slow
def test_a_step_of_the_paper_model_fits_into_memory():
    """What one block of 8,192 tokens needs, half of the preset's micro-batch, forwards and backwards, with exact attention.

    Flash attention holds no matrix of scores, so the memory grows linearly with the length, and shorter blocks tell it.
    """
    settings, train = merged("paper")
    sizes = settings.model.model_dump(exclude_none=True)
    torch.manual_seed(0)
    model = GPT(AttentionSites("flash", "causal_self", {}), vocab_size=50_257, context_length=8192, **sizes)
    optimizer = make_optimizer(model.parameters(), train)
    before = model.embedding.weight.detach().clone()

    def step(length: int) -> float:
        """The loss of a step over one block."""
        tokens, targets = torch.randint(50_257, (1, length + 1)).unfold(1, length, 1).unbind(1)
        loss = model.nats(tokens, targets).mean()
        loss.backward()
        return float(loss.detach())

    assert 10.8 < step(64) < 12.5  # ln 50,257 is 10.82: nothing is known yet
    optimizer.step()
    assert not torch.equal(model.embedding.weight, before)
    held = sum(parameter.nbytes for parameter in model.parameters())
    short, longer = (allocated_by(partial(step, length)) for length in (256, 768))
    at_full_length = longer + (8192 - 768) * (longer - short) / (768 - 256)
    assert 4 * held + at_full_length < 16 * 2**30  # weights, gradients and the two moments of Adam


def test_quick_has_registers_with_the_shift_that_recall_needs_in_one_layer():
    settings, train = merged("quick")
    assert (settings.data.name, settings.data.tokens, settings.model.token_shift) == ("registers", "auto", 1)
    assert settings.model.num_layers == 1
    assert settings.data.text_words >= 16 * settings.data.context_length
    assert train.steps * train.batch_size < settings.data.num_texts * 17  # no block is seen twice


def test_the_card_states_what_a_reader_must_know():
    card = (FOLDER / "PROTOCOL.md").read_text(encoding="utf-8")
    for needed in (
        "how blocks begin",
        "None of our figures is comparable",
        "0e496969",
        "bits per byte",
        "ASCII",
        "begin token",
        "16.02",
        "15.52",
    ):
        assert needed.lower() in card.lower(), needed


def test_the_card_names_every_setting():
    card = (FOLDER / "PROTOCOL.md").read_text(encoding="utf-8")
    for group, field in LanguageModelingSettings.model_fields.items():
        for name in field.annotation.model_fields:
            assert re.search(rf"`{group}\.{name}`", card), f"{group}.{name}"


@pytest.mark.slow
def test_the_commands_of_the_card_run(tmp_path, data_root):
    card = (FOLDER / "PROTOCOL.md").read_text(encoding="utf-8")
    commands = [shlex.split(command)[1:] for command in re.findall(r"`(lavo-bench run [^`]+)`", card)]
    assert len(commands) == 2
    for command in commands:
        command = [str(data_root) if word == "DIR" else word for word in command]
        if "--data-root" in command:  # with books of a kilobyte each
            command += ["--preset", "smoke", "--set", "eval.lengths=[1,2]"]
        command += [
            "--limit",
            "4",
            "--set",
            "train.steps=2",
            "--set",
            "train.warmup_steps=0",
            "-o",
            str(tmp_path / "records"),
        ]
        script = "import sys; from benchmark.cli import main; sys.exit(main())"
        process = [sys.executable, "-c", script, *command]
        done = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found = records([tmp_path / "records"])
    assert sorted(record.cell.attention for record in found) == ["lavo", "lavo", "softmax"]
    assert all(record.curves["loss_by_length"] and record.controls["bigram"] for record in found)
    assert set(figures(found)) == {"loss_by_length", "loss_by_position"}


def test_the_ablations_can_be_planned_with_books(real_data, tmp_path):
    """The long context needs excerpts that hold the longest of its losses by length."""
    cells = []
    for settings, overrides in read_run_file(CONFIGS / "ablations.yaml"):
        run = settings.model_copy(update={"data_root": real_data})
        cells += plan_cells([(run, overrides)], tmp_path / "cache", Rates())
    assert {cell.config["data"]["context_length"] for cell in cells} == {256, 2048}
    assert len({cell.hash for cell in cells}) == len(cells) == 3 * (7 + 4)

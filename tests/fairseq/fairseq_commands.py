"""fairseq's commands, run in this process because importing fairseq takes seconds."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import FairseqDecoder

ROOT = Path(__file__).parents[2]
USER_DIR = f"--user-dir={ROOT / 'lavo_fairseq'}"
ATTENTIONS = ["lavo", "softmax", "flash", "performer", "cosformer"]
ALL_EXAMPLES = "--required-batch-size-multiple=1"  # the default, 8, drops the last batch (docs/fairseq.md)


def command(line: str) -> str:
    """Runs a ``fairseq-…`` command and returns what it prints."""
    name, *arguments = shlex.split(line)
    module = importlib.import_module("fairseq_cli." + name.removeprefix("fairseq-").replace("-", "_"))
    # fairseq remembers the best loss of earlier trainings in this process, and saves a best checkpoint only below it.
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    out, before = io.StringIO(), sys.argv
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(out):
            module.cli_main()
    finally:
        sys.argv = before
    return out.getvalue()


def preprocess(folder: Path, *arguments: str) -> Path:
    """The folder, with the data that ``fairseq-preprocess`` made in it."""
    command(shlex.join(["fairseq-preprocess", f"--destdir={folder}", "--workers=1", *arguments]))
    return folder


@functools.cache
def configured(data: Path, *arguments: str) -> tuple[Any, Any]:
    """fairseq's configuration of a training, and its task; cached, because reading the flags takes most of a second."""
    parser = options.get_training_parser()
    common = [str(data), USER_DIR, "--cpu", "--seed=1", ALL_EXAMPLES]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*common, *arguments]))
    return cfg, tasks.setup_task(cfg.task)


def built(data: Path, *arguments: str, **flags: Any) -> tuple[Any, Any, Any]:
    """Configuration, task and model as ``fairseq-train`` builds them; ``flags`` of the model override the arguments."""
    cfg, task = configured(data, *arguments)
    cfg = copy.deepcopy(cfg)
    for name, value in flags.items():
        cfg.model[name] = value
    torch.manual_seed(1)
    return cfg, task, task.build_model(cfg.model).eval()


def batch_of(task: Any, part: str, *, size: int) -> Any:
    """The first examples of a part, collated by fairseq."""
    task.load_dataset(part)
    dataset = task.dataset(part)
    return dataset.collater([dataset[index] for index in range(size)])


def hypotheses(printed: str) -> dict[int, tuple[float, str]]:
    """example -> score and text of its best hypothesis, from the output of ``fairseq-generate``."""
    rows = [line[2:].split("\t") for line in printed.splitlines() if line.startswith("H-")]
    return {int(number): (float(score), text) for number, score, text in rows}


class WithoutState(FairseqDecoder):
    """A decoder without a state, so that fairseq computes the whole prefix at each step."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder.dictionary)
        self.whole = (decoder,)  # in a tuple, unregistered: fairseq would reorder a state that doesn't exist

    def forward(self, prev_output_tokens: torch.Tensor, encoder_out: Any = None) -> Any:
        return self.whole[0](prev_output_tokens, encoder_out=encoder_out)

    def max_positions(self) -> int:
        return self.whole[0].max_positions()


def generated(task: Any, cfg: Any, model: Any, sample: Any, *, beam: int, prefix: torch.Tensor | None = None) -> Any:
    """For each example the (tokens, score) of every beam, from fairseq's generator."""
    cfg.generation.beam, cfg.generation.max_len_b, cfg.generation.nbest = beam, 12, beam
    generator = task.build_generator([model], cfg.generation)
    found = task.inference_step(generator, [model], sample, prefix_tokens=prefix)
    return [[(row["tokens"].tolist(), float(row["score"])) for row in rows] for rows in found]


def assert_same_hypotheses(found: Any, expected: Any) -> None:
    """Two results of ``generated`` have the same tokens, and the same scores within rounding."""
    assert [[tokens for tokens, _ in rows] for rows in found] == [[tokens for tokens, _ in rows] for rows in expected]
    scores, expected_scores = ([score for rows in result for _, score in rows] for result in (found, expected))
    assert scores == pytest.approx(expected_scores, rel=1e-4, abs=1e-4)


@torch.no_grad()
def greedy(
    logits_of: Callable[[torch.Tensor], torch.Tensor], prefix: list[int], dictionary: Any, *, length: int
) -> str:
    """The text of the most probable token at each step, computed without a state.

    logits_of: tokens (1, n) -> logits (1, n, vocabulary).  An empty text is not allowed, as with fairseq's --min-len 1.
    """
    tokens = [dictionary.eos(), *prefix]
    while len(tokens) <= length:
        logits = logits_of(torch.tensor([tokens]))[0, -1]
        logits[dictionary.pad()] = -math.inf
        if len(tokens) == 1:
            logits[dictionary.eos()] = -math.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == dictionary.eos():
            break
    return dictionary.string(torch.tensor(tokens[1:]))

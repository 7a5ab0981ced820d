"""fairseq's commands in this process: its import takes seconds, so no interpreter is started for each."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.data.data_utils import collate_tokens
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import FairseqDecoder

ROOT = Path(__file__).parents[2]
ALL_EXAMPLES = "--required-batch-size-multiple=1"  # fairseq's 8 drops the last batch of a set (docs/fairseq.md)


def command(line: str) -> str:
    """What ``fairseq-…`` prints."""
    name, *arguments = shlex.split(line)
    module = importlib.import_module("fairseq_cli." + name.removeprefix("fairseq-").replace("-", "_"))
    # fairseq keeps the best loss of a process's earlier trainings, and would save no best checkpoint above it.
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
    command(shlex.join(["fairseq-preprocess", f"--destdir={folder}", "--workers=1", *arguments]))
    return folder


@functools.cache
def configured(data: Path, *arguments: str) -> tuple[Any, Any]:
    """fairseq's configuration of a training, and its task.  Cached: fairseq takes most of a second to read its flags."""
    parser = options.get_training_parser()
    common = [str(data), "--user-dir", str(ROOT / "lavo_fairseq"), "--cpu", "--seed=1", ALL_EXAMPLES]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*common, *arguments]))
    return cfg, tasks.setup_task(cfg.task)


def built(data: Path, *arguments: str, **flags: Any) -> tuple[Any, Any, Any]:
    """Configuration, task and model as ``fairseq-train`` builds them.  flags: of the model, on top of the arguments."""
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
    """example -> score and text of the best, from what ``fairseq-generate`` prints."""
    rows = [line[2:].split("\t") for line in printed.splitlines() if line.startswith("H-")]
    return {int(number): (float(score), text) for number, score, text in rows}


class WithoutState(FairseqDecoder):
    """A decoder that fairseq can't stream: each step computes the whole prefix anew."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder.dictionary)
        self.whole = (decoder,)  # not registered: fairseq would reorder a state that isn't there

    def forward(self, prev_output_tokens: torch.Tensor, encoder_out: Any = None) -> Any:
        return self.whole[0](prev_output_tokens, encoder_out=encoder_out)

    def max_positions(self) -> int:
        return self.whole[0].max_positions()


def generated(task: Any, cfg: Any, model: Any, sample: Any, *, beam: int, prefix: torch.Tensor | None = None) -> Any:
    """[(tokens, score) of every beam] by example, from fairseq's generator."""
    cfg.generation.beam, cfg.generation.max_len_b, cfg.generation.nbest = beam, 12, beam
    generator = task.build_generator([model], cfg.generation)
    found = task.inference_step(generator, [model], sample, prefix_tokens=prefix)
    return [[(row["tokens"].tolist(), float(row["score"])) for row in rows] for rows in found]


def padded(rows: list[list[int]], pad: int, *, left: bool = False) -> torch.Tensor:
    return collate_tokens([torch.tensor(row) for row in rows], pad, left_pad=left)

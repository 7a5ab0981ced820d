"""Recall: what the engine calls."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import AttentionFactory, Columns, LossSum, Metric, Pattern, Splits, Sums
from tasks.cross_entropy import token_nats
from tasks.recall import controls
from tasks.recall.curves import curve_rows
from tasks.recall.data import Example, Part, draw_splits
from tasks.recall.families import FAMILIES
from tasks.recall.metrics import accuracy
from tasks.recall.probe import Probe
from tasks.recall.settings import RecallSettings

NAMES = tuple(FAMILIES)


class Group(NamedTuple):
    """Texts of one family at one difficulty."""

    family: str
    pairs: int
    length: int
    is_trained: bool
    tokens: Tensor  # (b, n, channels) int64
    source: Tensor | None  # (b, m, channels) int64
    asked: Tensor  # (b, questions) int64
    answers: Tensor  # (b, questions) int64
    rows: Tensor  # (b,) int64, the places of the texts in the batch


class RecallBatch(NamedTuple):
    """Texts of several sets.  Texts of one set have one length, so nothing is padded."""

    groups: tuple[Group, ...]
    num_examples: int


def _family_metric(family: str) -> Metric:
    number = NAMES.index(family)

    def rows(columns: Columns) -> np.ndarray:
        return (columns["family"] == number) & (columns["is_trained"] == 1)

    return Metric(
        "%",
        True,
        lambda columns: float(columns["accuracy"][rows(columns)].mean()) if rows(columns).any() else float("nan"),
        lambda columns: int(rows(columns).sum()),
        f"share of right answers to `{family}`, mean over texts of the difficulties that were trained",
        _mean_where(rows, "accuracy"),
    )


def _mean_where(rows: Callable[[Columns], np.ndarray], column: str) -> Sums:
    """The mean of a column over some texts, from sums over all of them."""

    def terms(columns: Columns) -> np.ndarray:
        chosen = rows(columns).astype(np.float64)
        return np.stack([np.where(chosen == 1, columns[column], 0.0), chosen], axis=-1)

    return Sums(terms, lambda sums: sums[..., 0] / sums[..., 1])


def _mean_of_families(families: Sequence[str]) -> Metric:
    metrics = [_family_metric(family) for family in families]

    def value(columns: Columns) -> float:
        found = [metric.value(columns) for metric in metrics if metric.n(columns)]
        return float(np.mean(found)) if found else float("nan")

    def mean(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a family without texts is 0 / 0, and is left out
            return np.nanmean(sums[..., 0::2] / sums[..., 1::2], axis=-1)

    def terms(columns: Columns) -> np.ndarray:
        return np.concatenate([metric.sums.terms(columns) for metric in metrics if metric.sums], axis=-1)

    return Metric(
        "%",
        True,
        value,
        lambda columns: sum(metric.n(columns) for metric in metrics),
        "mean of the families that exact softmax solves at this preset (`eval.solvable`)",
        Sums(terms, mean),
    )


def _loss() -> Metric:
    return Metric(
        "nats/answer",
        False,
        lambda columns: float(columns["nats"][columns["is_trained"] == 1].mean()),
        lambda columns: int((columns["is_trained"] == 1).sum()),
        "-ln p of the right answer, mean over the answers of a text, then over texts of the trained difficulties",
        _mean_where(lambda columns: columns["is_trained"] == 1, "nats"),
    )


class Recall:
    """Answer questions about a text that only the attention can carry to them (PROTOCOL.md)."""

    name = "recall"
    version = 1
    backbones = {"probe": ("noncausal_self", "causal_self", "noncausal_cross", "causal_cross")}
    separate_models = True  # each pattern is a model of its own, with texts of its own
    settings_of = {"probe": RecallSettings}
    metrics: Mapping[str, Metric] = {
        "accuracy": _mean_of_families(NAMES),
        **{family: _family_metric(family) for family in NAMES},
        "loss": _loss(),
    }
    selection = "loss"

    def __init__(self, settings: RecallSettings, *, backbone: str = "probe", pattern: Pattern = "causal_self") -> None:
        assert backbone in self.backbones
        self.settings, self.pattern = settings, pattern
        self.families = [name for name in settings.data.families if pattern in FAMILIES[name].patterns]
        solvable = [name for name in settings.eval.solvable or self.families if name in self.families]
        self.metrics = {
            "accuracy": _mean_of_families(solvable or self.families),
            **{family: self.metrics[family] for family in NAMES if family in self.families},
            "loss": self.metrics["loss"],
        }
        self.splits: Splits

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The texts, drawn on the spot.  Raises ValueError for a difficulty that the pattern doesn't allow."""
        del data_root, cache  # there are no real data, and drawing takes seconds
        self.splits = draw_splits(self.settings.data, self.pattern)
        return self.splits

    def collate(self, examples: Sequence[Sequence[Example]]) -> RecallBatch:
        """A batch of these examples, with the texts of each set together."""
        found: dict[int, tuple[Any, list[int], list[int]]] = {}
        for number, texts in enumerate(examples):
            for one in texts:
                _, rows, numbers = found.setdefault(id(one.set), (one.set, [], []))
                rows.append(one.row)
                numbers.append(number)
        groups = []
        for one, rows, numbers in found.values():
            arrays = [None if array is None else torch.from_numpy(array[rows]).long() for array in one.texts[:4]]
            about = (one.family, one.pairs, one.length, one.is_trained)
            groups.append(Group._make((*about, *arrays, torch.tensor(numbers))))
        return RecallBatch(tuple(groups), len(examples))

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """One probe for each family, so that no family's figure depends on which others there are."""
        options, data = self.settings.model, self.settings.data
        probes = nn.ModuleDict()
        first = int(torch.randint(2**31, (), device="cpu"))
        for name in self.families:
            family, sizes = FAMILIES[name], getattr(data, name)
            difficulties = [*sizes.train, *sizes.test]
            pairs = max(pairs for pairs, _ in difficulties)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(first ^ zlib.crc32(name.encode()))
                probes[name] = Probe(
                    attention_for,
                    pattern=self.pattern,
                    num_words=family.words(data.vocab_size),
                    max_length=max(pairs, *(length for _, length in difficulties)),
                    embed_dim=options.embed_dim,
                    num_layers=max(options.num_layers, family.num_layers),
                    num_heads=options.num_heads,
                    feed_forward_dim=options.feed_forward_dim,
                    shift=family.shift if options.shift is None else options.shift,
                    positions=family.ordered or options.positions == "all",
                    num_slots=pairs if family.from_one_place else 0,
                    encoder_dim=options.encoder_dim,
                )
        return probes

    def loss(self, model: nn.ModuleDict, batch: RecallBatch) -> LossSum:
        """The mean nats of each family's answers, summed over families, as a sum over examples.

        The mean within a family makes its gradient independent of the other families.
        """
        total = sum(self._nats(model, group)[0].mean(-1).sum() for group in batch.groups)
        assert isinstance(total, Tensor)
        return LossSum(total, batch.num_examples)

    def score(self, model: nn.ModuleDict, batch: RecallBatch) -> Mapping[str, Tensor]:
        """The accuracy and nats of each text, and its family and difficulty."""
        columns: dict[str, Tensor] = {}
        for group in batch.groups:
            nats, logits = self._nats(model, group)
            values: dict[str, Any] = {
                "family": NAMES.index(group.family),
                "pairs": group.pairs,
                "length": group.length,
                "is_trained": group.is_trained,
                "accuracy": accuracy(logits.argmax(-1), group.answers),
                "nats": nats.double().mean(-1),
            }
            for name, value in values.items():
                column = columns.setdefault(name, nats.new_empty(batch.num_examples, dtype=torch.float64))
                column[group.rows] = value
        return columns

    def tokens(self, batch: RecallBatch) -> int:
        """Places of a batch, source included."""
        return sum(
            group.tokens[..., 0].numel() + (0 if group.source is None else group.source[..., 0].numel())
            for group in batch.groups
        )

    def controls(self) -> Mapping[str, Columns]:
        """What rules without an attention score (``controls.py``)."""
        return controls.rules(self.splits, self.settings.data.vocab_size)

    def curves(self, model: nn.ModuleDict) -> dict[str, Any]:
        """Accuracy by family and difficulty, with the bytes of the attentions' states and the ceilings beside it."""
        test = self.splits.test
        assert isinstance(test, Part)
        with evaluating(model):
            rows = curve_rows(model, test.sets, vocab_size=self.settings.data.vocab_size, pattern=self.pattern)
        return {"recall": rows}

    def _nats(self, model: nn.ModuleDict, group: Group) -> tuple[Tensor, Tensor]:
        """Returns the nats of the answers, (b, questions), and the logits."""
        logits = model[group.family](group.tokens, group.source, group.asked)
        return token_nats(logits, group.answers), logits

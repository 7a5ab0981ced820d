"""Summarisation, as the engine calls it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import AttentionFactory, Columns, LossSum, Metric, Splits, mean_of, ratio_of
from benchmark.settings import Settings
from tasks.cross_entropy import PADDED, token_nats
from tasks.summarization.data import DataSettings, has_set, load_summaries
from tasks.summarization.decoding import Hypothesis, beam_search
from tasks.summarization.examples import Example, Examples, Summaries
from tasks.summarization.metrics import TYPES, one_sentence_a_line, rouge, sentences
from tasks.summarization.pairs import Pair
from tasks.summarization.transformer import Transformer

MOST_COMPARED = 200  # training summaries from which the control `constant` is chosen
SHOWN_CHARACTERS = 1200  # the record keeps this much of a source


class ModelSettings(Settings):
    """Sizes of the backbone."""

    embed_dim: int = Field(default=512, ge=1)
    num_encoder_layers: int = Field(default=6, ge=1)
    num_decoder_layers: int = Field(default=6, ge=1)
    num_heads: int = Field(default=8, ge=1)
    feed_forward_dim: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    share_embeddings: bool = Field(
        default=True, description="true: one matrix for source, target and output; false: three"
    )
    num_target_positions: int | None = Field(
        default=None, ge=1, description="learned positions of targets; null: data.max_target_tokens"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self


class EvalSettings(Settings):
    """How summaries are made and compared; lengths are in tokens and count the end mark."""

    beam_size: int = Field(default=1, ge=1, description="1 is greedy search")
    length_penalty: float = Field(default=0.0, description="scores are divided by length to this power")
    min_tokens: int = Field(default=1, ge=1, description="minimum length of every summary")
    forced_min_tokens: int = Field(default=1, ge=1, description="minimum length of the summaries of rouge*_forced")
    lead_sentences: int | None = Field(
        default=None, ge=1, description="sentences of each document in the control lead; null: by data set"
    )
    num_shown: int = Field(
        default=6, ge=0, description="number of test examples, evenly chosen, whose summaries the record keeps"
    )


class SummarizationSettings(Settings):
    """All settings of ``transformer``."""

    data: DataSettings
    model: ModelSettings = ModelSettings()
    eval: EvalSettings = EvalSettings()

    @model_validator(mode="after")
    def _lengths_fit(self) -> SummarizationSettings:
        longest, positions = self.data.max_target_tokens, self.model.num_target_positions
        if positions is not None and positions < longest:
            raise ValueError(f"model.num_target_positions {positions} is less than data.max_target_tokens {longest}")
        for name in ("min_tokens", "forced_min_tokens"):
            if getattr(self.eval, name) > longest:
                raise ValueError(
                    f"eval.{name} {getattr(self.eval, name)} is more than data.max_target_tokens {longest}"
                )
        return self


class SummaryBatch(NamedTuple):
    """A batch of pairs."""

    source: Tensor  # (b, m) int64
    source_padding: Tensor | None  # (b, m) bool, True where padded; None if nothing is padded
    inputs: Tensor  # (b, n) int64: the begin mark, then the target without its end mark
    targets: Tensor  # (b, n) int64, PADDED behind the end of a shorter target
    num_tokens: Tensor  # (b,) int64, of the target
    references: tuple[tuple[str, ...], ...]  # of test examples; empty if no summaries are needed


def _rouge(name: str, forced: bool) -> Metric:
    what = {
        "rouge1": "single words",
        "rouge2": "pairs of words",
        "rougeL": "longest common subsequence of the whole texts",
        "rougeLsum": "union of the longest common subsequences by sentence",
    }[name]
    how = "summaries of at least eval.forced_min_tokens" if forced else "summaries that end by themselves"
    card = f"F1 in per cent of {what}, Porter stemming, best of several references, mean over examples; {how}"
    return mean_of(f"{name}_forced" if forced else name, unit="%", higher_is_better=True, card=card)


class Summarization:
    """The task: the source is read once, the summary is written token by token (PROTOCOL.md)."""

    name = "summarization"
    version = 2
    backbones = {"transformer": ("noncausal_self", "causal_self", "causal_cross")}
    streams = {"transformer": ("causal_self", "causal_cross")}
    settings_of = {"transformer": SummarizationSettings}
    metrics = {
        **{name: _rouge(name, False) for name in TYPES},
        **{f"{name}_forced": _rouge(name, True) for name in TYPES},
        "loss": Metric(
            "nats/token",
            False,
            lambda columns: float(columns["nats"].sum() / columns["num_tokens"].sum()),
            lambda columns: len(columns["nats"]),
            "sum of -ln p of the first reference's tokens, end mark included / number of these tokens; no smoothing",
            ratio_of("nats", "num_tokens"),
        ),
    }
    selection = "loss"
    data: Summaries

    def __init__(self, settings: SummarizationSettings, *, backbone: str = "transformer") -> None:
        if backbone not in self.backbones:
            raise ValueError(f"backbone {backbone!r}: summarization has {', '.join(self.backbones)}")
        self.settings = settings

    def sources(self, data_root: Path) -> Collection[str]:
        """The set that these settings read, if it is one of ``sources.yaml``; where ``sum/`` is empty, SciTLDR."""
        data = self.settings.data
        if data.name == "auto":
            return () if has_set(data_root) else {"sum/scitldr"}
        return {f"sum/{data.name}"} if data.folder is None else ()

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The three parts; real data from ``sum/`` of the root, or from the folder that the settings name.

        Raises ValueError, in one line, for data that can't be used.
        """
        self.data = load_summaries(self.settings.data, data_root, cache)
        return self.data.splits

    def collate(self, examples: Sequence[Example]) -> SummaryBatch:
        """A padded batch; it has references if all its examples are test examples."""
        source, padding = _padded([example.source for example in examples], 0)
        targets, absent = _padded([example.target for example in examples], PADDED)
        begin = torch.full((len(examples), 1), self.data.tokenizer.begin)
        # Any token will do at a padded place: the decoder is causal, so no scored position sees it.
        inputs = torch.cat((begin, targets[:, :-1].masked_fill(absent[:, :-1], self.data.end)), dim=1)
        wanted = all(example.is_test for example in examples)
        references = tuple(example.pair.references for example in examples) if wanted else ()
        return SummaryBatch(
            source, padding if bool(padding.any()) else None, inputs, targets, (~absent).sum(1), references
        )

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """The Transformer for the vocabulary and lengths of the data."""
        sizes = self.settings.model.model_dump(exclude={"label_smoothing"})
        return Transformer(
            attention_for,
            vocab_size=self.data.vocab_size,
            max_source_length=self.data.longest_source,
            max_target_length=self.settings.data.max_target_tokens,
            **sizes,
        )

    def loss(self, model: nn.Module, batch: SummaryBatch) -> LossSum:
        """-ln p with label smoothing, summed over all target tokens, and the number of these tokens."""
        logits = model(batch.source, batch.inputs, batch.source_padding)
        nats = token_nats(logits, batch.targets, label_smoothing=self.settings.model.label_smoothing)
        return LossSum(nats.sum(), batch.num_tokens.sum())

    def score(self, model: Any, batch: SummaryBatch) -> Mapping[str, Tensor]:
        """The loss of every example; for test examples also ROUGE and lengths of their free and forced summaries."""
        memory = model.encode(batch.source, batch.source_padding)
        logits = model.decode(batch.inputs, memory, batch.source_padding)
        nats = token_nats(logits, batch.targets).double().sum(1)
        columns = {"nats": nats, "num_tokens": batch.num_tokens.double()}
        if batch.references:
            for suffix, found in self._summaries(model, memory, batch.source_padding).items():
                scores = [_scores(self.text(one), refs) for one, refs in zip(found, batch.references, strict=True)]
                columns |= {f"{name}{suffix}": _column(score[name] for score in scores) for name in TYPES}
                columns[f"length{suffix}"] = _column(len(one.tokens) + 1 for one in found)
                columns[f"cut{suffix}"] = _column(one.cut for one in found)
        return columns

    def as_test(self, part: Examples) -> Examples:
        """The same examples with summaries: see ``ScoresTestInFull``."""
        return Examples(part.pairs, part.source, part.target, is_test=True)

    def controls(self) -> Mapping[str, Columns]:
        """``lead_k``: the first k sentences of each document.  ``constant``: one training summary for all (``most_typical``).

        They have no loss, so those columns are NaN.
        """
        test, train = self.data.splits.test, self.data.splits.train
        count = self.settings.eval.lead_sentences or self.data.lead_sentences
        targets = [train[index].target[:-1] for index in range(min(len(train), MOST_COMPARED))]
        typical = self.data.tokenizer.decode(targets[most_typical(targets)]).decode("utf-8", errors="replace")
        return {
            f"lead_{count}": self._control([lead(example.pair, count) for example in test]),
            "constant": self._control([typical] * len(test)),
        }

    def _control(self, texts: Sequence[str]) -> Columns:
        """The columns of these summaries of the test examples."""
        test = self.data.splits.test
        scores = [_scores(text, example.pair.references) for text, example in zip(texts, test, strict=True)]
        columns = {
            f"{name}{end}": np.array([score[name] for score in scores]) for name in TYPES for end in ("", "_forced")
        }
        unknown = np.full(len(test), np.nan)
        for name in ("nats", "num_tokens", "length", "length_forced", "cut", "cut_forced"):
            columns[name] = unknown
        return columns

    def tokens(self, batch: SummaryBatch) -> int:
        """The number of tokens of sources and targets, without padding."""
        padded = 0 if batch.source_padding is None else int(batch.source_padding.sum())
        return batch.source.numel() - padded + int(batch.num_tokens.sum())

    def text(self, summary: Hypothesis) -> str:
        """The text of a summary.  Where a cut divides a character, its half becomes the replacement character."""
        return self.data.tokenizer.decode(np.array(summary.tokens, dtype=np.int64)).decode("utf-8", errors="replace")

    def curves(self, model: Any) -> dict[str, Any]:
        """For the report: sources, references and summaries of some test examples."""
        test = self.data.splits.test
        count = min(self.settings.eval.num_shown, len(test))
        shown = [test[index * len(test) // count] for index in range(count)]
        if not shown:
            return {"examples": []}
        batch = self.collate(shown)
        device = model.output.weight.device
        padding = None if batch.source_padding is None else batch.source_padding.to(device)
        with evaluating(model):
            found = self._summaries(model, model.encode(batch.source.to(device), padding), padding)
        rows = []
        for index, example in enumerate(shown):
            pair, free, forced = example.pair, found[""][index], found["_forced"][index]
            text = "\n\n".join(pair.documents)
            rows.append(
                {
                    "name": pair.name,
                    "question": pair.question,
                    "source": text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else ""),
                    "references": list(pair.references),
                    "summary": self.text(free),
                    "summary_forced": self.text(forced),
                    "rouge1": _scores(self.text(free), pair.references)["rouge1"],
                }
            )
        return {"examples": rows, "forced_min_tokens": self.settings.eval.forced_min_tokens}

    def _summaries(self, model: Any, memory: Tensor, padding: Tensor | None) -> dict[str, list[Hypothesis]]:
        """Suffix of the columns -> summaries: those that end by themselves, and those with a forced minimum length."""
        state, evaluation = model.init_state(memory, padding), self.settings.eval
        found: dict[int, list[Hypothesis]] = {}
        wanted = {"": evaluation.min_tokens, "_forced": max(evaluation.min_tokens, evaluation.forced_min_tokens)}
        for min_length in set(wanted.values()):
            found[min_length] = beam_search(
                model,
                state,
                len(memory),
                begin=self.data.tokenizer.begin,
                end=self.data.end,
                beam_size=evaluation.beam_size,
                length_penalty=evaluation.length_penalty,
                min_length=min_length,
                max_length=self.settings.data.max_target_tokens,
            )
        return {suffix: found[min_length] for suffix, min_length in wanted.items()}


def lead(pair: Pair, count: int) -> str:
    """The first ``count`` sentences of each document, one a line, without the question."""
    return "\n".join(sentence for document in pair.documents for sentence in sentences(document)[:count])


def most_typical(texts: Sequence[np.ndarray]) -> int:
    """The number of the text that has most tokens in common with the others: the highest mean F1, the first of equal ones.

    texts: int64 (tokens,) each.
    """
    size = 1 + max(int(text.max(initial=0)) for text in texts)
    counts = np.stack([np.bincount(text, minlength=size) for text in texts])
    lengths = counts.sum(1)
    common = np.stack([np.minimum(counts, row).sum(1) for row in counts])
    return int((common / np.maximum(lengths + lengths[:, None], 1)).mean(0).argmax())


def _scores(text: str, references: Sequence[str]) -> dict[str, float]:
    # Letters that ROUGE doesn't see were counted when the data were loaded, so one text may have any share of them.
    return rouge(one_sentence_a_line(text), [one_sentence_a_line(one) for one in references], max_dropped=1.0)


def _column(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _padded(rows: Sequence[np.ndarray], value: int) -> tuple[Tensor, Tensor]:
    """The rows as one array filled up with ``value``, and where it is filled up: int64 and bool (rows, longest)."""
    lengths = torch.tensor([len(row) for row in rows])
    absent = torch.arange(int(lengths.max())) >= lengths[:, None]
    padded = torch.full(absent.shape, value)
    padded[~absent] = torch.from_numpy(np.concatenate(rows))
    return padded, absent

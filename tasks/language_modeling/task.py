"""Language modelling: what the engine calls."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from benchmark.evaluation import evaluating
from benchmark.interface import AttentionFactory, Columns, LossSum, Metric, SequencePart, Splits, Sums, ratio_of
from benchmark.settings import Settings
from tasks.cross_entropy import PADDED, token_nats
from tasks.language_modeling import data, metrics
from tasks.language_modeling.binarised import JOINS, FairseqTokens, load_binarised
from tasks.language_modeling.gpt import GPT
from tasks.language_modeling.lengths import length_row, position_curve, shift, streamed_loss
from tasks.language_modeling.ngram import NGram
from tasks.language_modeling.recall import asked_places, name_tokens, recall_columns, recall_of_ngrams
from tasks.language_modeling.tokens import AnyTokenizer, TextCounter

BLOCKS_BEGIN = (
    "each document is cut into consecutive blocks, of which the last may be shorter; a block begins with a begin token and "
    "has no context before it; every token is scored once"
)
# Of the training part, for the n-gram control: counting more takes minutes and changes little.
CONTROL_TOKENS = 4_000_000


class DataSettings(Settings):
    """The texts, their tokens and the length of the blocks.

    A limit takes the middles of some documents (``data.limit_documents``).
    """

    name: Literal["registers", "standard_library"] = "standard_library"  # the embedded texts, without a data root
    num_texts: int = Field(default=192, ge=1)  # registers for training
    text_words: int = Field(default=2_048, ge=16)  # of a register, at least
    # auto: words of the registers, bytes of all other texts.
    tokens: Literal[
        "auto", "bytes", "words", "bpe", "gpt2", "fairseq", "fairseq_subword_nmt", "fairseq_sentencepiece"
    ] = "bytes"
    vocab_size: int = Field(default=8192, ge=258, le=2**20)  # of bpe, begin token included; of words at most
    context_length: int = Field(ge=1)  # tokens of a training block
    max_train_bytes: int | None = Field(default=None, ge=64)
    max_validation_bytes: int | None = Field(default=None, ge=64)
    max_test_bytes: int | None = Field(default=None, ge=64)
    excerpt_bytes: int = Field(default=16_384, ge=64)


class ModelSettings(Settings):
    """Sizes of the backbone."""

    embed_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    feed_forward_dim: int | None = Field(default=None, ge=1)  # 4 embed_dim if left out
    positions: Literal["sinusoidal", "learned", "rotary", "none"] = "sinusoidal"
    token_shift: int = Field(default=0, ge=0)  # so many tokens before it are in a token's input too
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_std: float | None = Field(default=None, gt=0)  # at the start; embed_dim^-0.5 if left out
    checkpointing: bool = False  # the backward pass computes blocks again, so that long contexts need little memory

    @model_validator(mode="after")
    def _widths_divide(self) -> ModelSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.positions == "sinusoidal" and self.embed_dim % 2:
            raise ValueError(f"embed_dim {self.embed_dim} is odd; sinusoidal positions need an even one")
        if self.positions == "rotary" and (self.embed_dim // self.num_heads) % 2:
            raise ValueError(
                f"embed_dim / num_heads is {self.embed_dim // self.num_heads}; rotary positions need an even one"
            )
        return self


class EvalSettings(Settings):
    """The context lengths of the curves, as multiples of the training length, and the sizes they are streamed in."""

    lengths: tuple[int, ...] = (1, 2, 4, 8, 16)
    chunk_size: int = Field(default=256, ge=1)
    tokens_at_once: int = Field(default=4096, ge=1)  # of all rows together
    control_order: int = Field(default=3, ge=1, le=6)  # tokens of context that the n-gram control counts

    @model_validator(mode="after")
    def _lengths_grow(self) -> EvalSettings:
        if not self.lengths or self.lengths[0] < 1 or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(
                f"lengths {list(self.lengths)}: growing multiples of the training length, from 1, as [1, 2, 4]"
            )
        return self


class LanguageModelingSettings(Settings):
    """All settings of ``gpt``."""

    data: DataSettings
    model: ModelSettings
    eval: EvalSettings = EvalSettings()


class TokenBatch(NamedTuple):
    """Blocks side by side, padded at their end to the longest."""

    inputs: Tensor  # (b, n) int64
    targets: Tensor  # (b, n) int64, PADDED behind the end of a block
    num_tokens: Tensor  # (b,) int64
    num_bytes: Tensor  # (b,) int64
    num_words: Tensor  # (b,) int64
    before: Tensor  # (b, up to token_shift) int64, the tokens before a later part of the blocks


def _ratio(function: Any, count: str, unit: str, card: str) -> Metric:
    terms = ratio_of("nats", count).terms
    return Metric(
        unit,
        False,
        lambda columns: float(function(columns["nats"].sum(), columns[count].sum())),
        lambda columns: int(columns["num_tokens"].sum()),
        card,
        Sums(terms, lambda sums: function(sums[..., 0], sums[..., 1])),
    )


class LanguageModeling:
    """Next-token prediction on whole texts (PROTOCOL.md)."""

    name = "language_modeling"
    version = 2
    backbones = {"gpt": ("causal_self",)}
    streams = {"gpt": ("causal_self",)}
    settings_of = {"gpt": LanguageModelingSettings}
    metrics = {
        "loss": _ratio(metrics.loss, "num_tokens", "nats/token", "sum of -ln p over all tokens / number of tokens"),
        "perplexity": _ratio(metrics.perplexity, "num_tokens", "per token", "exp(nats / number of tokens)"),
        "bits_per_byte": _ratio(metrics.bits_per_byte, "num_bytes", "bits/byte", "nats / (ln 2 · bytes of the text)"),
        "word_perplexity": _ratio(metrics.word_perplexity, "num_words", "per word", "exp(nats / number of words)"),
        "recall": Metric(
            "%",
            True,
            lambda columns: 100 * float(columns["recalled"].sum() / columns["asked"].sum()),
            lambda columns: int(columns["asked"].sum()),
            "registers only: surnames that are the likeliest token, of those after a first name that the block had before",
            Sums(ratio_of("recalled", "asked").terms, lambda sums: 100 * sums[..., 0] / sums[..., 1]),
        ),
    }
    selection = "loss"

    def __init__(self, settings: LanguageModelingSettings, *, backbone: str = "gpt") -> None:
        assert backbone in self.backbones
        self.settings = settings
        self.tokenizer: AnyTokenizer | FairseqTokens
        self.counter: data.AnyCounter
        self.bytes_known = True
        self.is_name: Tensor | None = None  # (vocabulary,), for the metric recall; None where texts are no registers
        self.parts: dict[str, data.TokenizedPart]
        self.splits: Splits

    def sources(self, data_root: Path) -> Collection[str]:  # noqa: ARG002  the interface's signature
        """GPT-2's tokens, if these settings read them.  Texts are fetched by name only: PG-19 has 28,752 files."""
        return {"lm/gpt2"} if self.settings.data.tokens == "gpt2" else ()

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """Blocks of the books in ``data_root`` or, without one, of the embedded texts; ``cache`` keeps their tokens.

        With one of the ``fairseq`` values of ``data.tokens``, blocks of what ``fairseq-preprocess`` wrote to ``data_root``.
        Raises ValueError with one line for texts that can't be used.
        """
        options = self.settings.data
        if options.tokens in JOINS:
            return self._load_binarised(data_root)
        if data_root is not None:
            sources = data.find_books(data_root)
        elif options.name == "registers":
            sources = data.find_registers(options.num_texts, options.text_words, cache)
        else:
            sources = data.find_modules()
        limits = {part: getattr(options, f"max_{part}_bytes") for part in data.PARTS}
        documents = {
            part: data.limit_documents(sources.parts[part], limits[part], options.excerpt_bytes) for part in data.PARTS
        }
        train_key = data.cache_key(sources.fingerprint, limits["train"], options.excerpt_bytes, options.vocab_size)
        registers = sources.embedded and options.name == "registers"
        self.tokenizer = tokenizer = data.make_tokenizer(
            ("words" if registers else "bytes") if options.tokens == "auto" else options.tokens,
            options.vocab_size,
            documents["train"],
            data_root,
            lambda name: cache / f"lm-{train_key}.{name}",
        )
        self.counter = TextCounter(tokenizer)
        self.parts = {}
        for part in data.PARTS:
            key = data.cache_key(sources.fingerprint, part, limits[part], options.excerpt_bytes, tokenizer.fingerprint)
            self.parts[part] = data.tokenize(
                documents[part],
                tokenizer,
                lambda name, key=key: cache / f"lm-{key}.{name}",  # type: ignore[misc]
            )
        sizes = {
            part: {
                "documents": len(documents[part]),
                "bytes": sum(document.stop - document.start for document in documents[part]),
                "tokens": len(self.parts[part].tokens),
                "whole": list(documents[part]) == list(sources.parts[part]),
            }
            for part in data.PARTS
        }
        if registers:
            self.is_name = name_tokens(tokenizer)
        python = {"python": platform.python_version()} if sources.embedded and not registers else {}
        embedded = {"texts": options.name} if sources.embedded else {}
        return self._split(
            sources.name, sources.fingerprint, sources.embedded, self._details(sizes) | embedded | python
        )

    def _load_binarised(self, data_root: Path | None) -> Splits:
        options = self.settings.data
        limits = {part: getattr(options, f"max_{part}_bytes") for part in data.PARTS}
        texts = load_binarised(data_root, options.tokens, limits)
        self.tokenizer, self.counter, self.parts = texts.tokenizer, texts.counter, texts.parts
        self.bytes_known = texts.bytes_unknown is None
        details = self._details(texts.sizes) | {"no_bits_per_byte": texts.bytes_unknown}
        return self._split(texts.name, texts.fingerprint, False, details)

    def _split(self, name: str, fingerprint: str, embedded: bool, details: dict[str, Any]) -> Splits:
        self._check_lengths()
        # A wrong figure would be worse than none.
        known = {"bits_per_byte": self.bytes_known, "recall": self.is_name is not None}
        self.metrics = {key: metric for key, metric in self.metrics.items() if known.get(key, True)}
        train, validation, test = (self.blocks(part, self.settings.data.context_length) for part in data.PARTS)
        self.splits = Splits(train, validation, test, name, fingerprint, embedded, details=details)
        return self.splits

    def blocks(self, part: str, length: int) -> data.Blocks:
        """The blocks of one part; ``length`` is their number of tokens."""
        return data.Blocks(self.parts[part], length, self.counter)

    def collate(self, examples: Sequence[data.Example]) -> TokenBatch:
        """A batch of blocks; the inputs are the targets one place to the right, after the begin token."""
        inputs, targets = shift(examples, self.tokenizer.begin)
        counts = np.array([(len(example.tokens), example.num_bytes, example.num_words) for example in examples])
        num_tokens, num_bytes, num_words = inputs.new_tensor(counts.T)
        return TokenBatch(inputs, targets, num_tokens, num_bytes, num_words, inputs[:, :0])

    def build_model(self, attention_for: AttentionFactory) -> GPT:
        """The GPT for the vocabulary of the data and for the longest length of the curves."""
        options = self.settings.model
        context_length = self.settings.data.context_length
        return GPT(
            attention_for,
            vocab_size=self.tokenizer.vocab_size,
            embed_dim=options.embed_dim,
            num_layers=options.num_layers,
            num_heads=options.num_heads,
            context_length=context_length,
            max_length=self.settings.eval.lengths[-1] * context_length,
            feed_forward_dim=options.feed_forward_dim,
            positions=options.positions,
            token_shift=options.token_shift,
            dropout=options.dropout,
            embedding_std=options.embedding_std,
            checkpointing=options.checkpointing,
        )

    def loss(self, model: GPT, batch: TokenBatch) -> LossSum:
        """The nats of all tokens of the batch, and the number of tokens."""
        return LossSum(model.nats(batch.inputs, batch.targets, batch.before).sum(), batch.num_tokens.sum())

    def sequence_length(self, batch: TokenBatch) -> int:
        """Tokens of the longest block of the batch."""
        return batch.inputs.shape[1]

    def part_of(self, batch: TokenBatch, part: SequencePart) -> TokenBatch:
        """The tokens of this part of every block.  The counts of all parts add up to those of the batch.

        The first part gets all bytes and words, because a token may hold half a character or word, which can't be shared out.
        """
        inputs, targets = (x.narrow(1, part.start, part.lengths[part.rank]) for x in (batch.inputs, batch.targets))
        first = int(part.rank == 0)
        before = batch.inputs[:, max(0, part.start - self.settings.model.token_shift) : part.start]
        num_tokens = (targets != PADDED).sum(1)
        return TokenBatch(inputs, targets, num_tokens, batch.num_bytes * first, batch.num_words * first, before)

    def score(self, model: GPT, batch: TokenBatch) -> Mapping[str, Tensor]:
        """The nats of each block, and its numbers of tokens, bytes and words, by which the metrics divide them.

        Of registers also the columns of ``recall``.
        """
        recall: Mapping[str, Tensor] = {}
        if self.is_name is None:
            nats = model.nats(batch.inputs, batch.targets)
        else:
            logits = model(batch.inputs)
            nats = token_nats(logits, batch.targets)
            asked = asked_places(batch.inputs, batch.targets, self.is_name)
            recall = recall_columns(logits.argmax(-1) == batch.targets, asked)
        num_bytes = {"num_bytes": batch.num_bytes} if self.bytes_known else {}
        return {
            "nats": nats.double().sum(-1),
            "num_tokens": batch.num_tokens,
            **num_bytes,
            "num_words": batch.num_words,
            **recall,
        }

    def tokens(self, batch: TokenBatch) -> int:
        """The number of tokens that a batch trains on; the engine reports it per second."""
        return int(batch.num_tokens.sum())

    def controls(self) -> Mapping[str, Columns]:
        """A uniform guess, and n-gram estimates from 0, 1, … up to ``eval.control_order`` tokens of context."""
        return self.controls_after(len(self.splits.train))

    def controls_after(self, num_examples: int) -> Mapping[str, Columns]:
        """The controls, counted on as many training blocks as a model that has drawn ``num_examples`` has seen.

        The blocks are evenly chosen from the whole training part, as the model draws from all of it, and have CONTROL_TOKENS
        tokens at most.
        """
        train, test = self.splits.train, self.splits.test
        mean_length = len(self.parts["train"].tokens) / len(train)
        count = max(1, min(len(train), num_examples, int(CONTROL_TOKENS / mean_length)))
        model = NGram(
            [train[i * len(train) // count].tokens for i in range(count)],
            order=min(self.settings.eval.control_order, _highest_order(self.tokenizer.vocab_size)),
            vocab_size=self.tokenizer.vocab_size,
            begin=self.tokenizer.begin,
        )
        examples = list(test)
        counts = {
            "num_tokens": np.array([len(example.tokens) for example in examples]),
            "num_words": np.array([example.num_words for example in examples]),
        }
        if self.bytes_known:
            counts["num_bytes"] = np.array([example.num_bytes for example in examples])
        firsts = np.concatenate([[0], counts["num_tokens"].cumsum()[:-1]])
        orders = {"uniform": -1, "unigram": 0, "bigram": 1} | {f"order_{j}": j for j in range(2, model.order + 1)}
        texts = [example.tokens for example in examples]
        recall: dict[str, dict[str, np.ndarray]] = {name: {} for name in orders}
        if self.is_name is not None:
            inputs, targets = shift(examples, self.tokenizer.begin)
            asked = asked_places(inputs, targets, self.is_name)
            recall = {name: recall_of_ngrams(model, order, inputs, targets, asked) for name, order in orders.items()}
        return {
            name: {"nats": np.add.reduceat(model.nats(texts, order), firsts), **counts, **recall[name]}
            for name, order in orders.items()
        }

    def curves(self, model: GPT) -> dict[str, Any]:
        """The loss on the test part by context length and by position, streamed.

        Learned positions end at the training length; with them the curve has no longer lengths.
        """
        options, context_length = self.settings.eval, self.settings.data.context_length
        lengths = [multiple * context_length for multiple in options.lengths]
        lengths = [length for length in lengths if model.max_length is None or length <= model.max_length]
        rows, positions = [], []
        with evaluating(model):
            for length in lengths:
                result = streamed_loss(
                    model,
                    self.blocks("test", length),
                    length=length,
                    begin=self.tokenizer.begin,
                    chunk_size=options.chunk_size,
                    num_rows=max(1, options.tokens_at_once // min(length, options.chunk_size)),
                )
                row = length_row(length, result)
                rows.append(row if self.bytes_known else row | {"bits_per_byte": None})
                positions.append(position_curve(length, result))
        return {
            "training_length": context_length,
            "positions": model.positions,
            "loss_by_length": rows,
            "loss_by_position": positions[-1],
        }

    def _check_lengths(self) -> None:
        """Raises ValueError if a part has no text as long as a block, or as the longest context of the curves."""
        multiple, context_length = self.settings.eval.lengths[-1], self.settings.data.context_length
        for part, wanted, reason in (
            ("train", context_length, f"a block of data.context_length {context_length}"),
            ("validation", context_length, f"a block of data.context_length {context_length}"),
            ("test", multiple * context_length, f"eval.lengths {multiple} x data.context_length {context_length}"),
        ):
            longest = int(np.diff(self.parts[part].ends, prepend=0).max())
            if longest < wanted:
                raise ValueError(
                    f"lm/{part}: its longest text has {longest} tokens, {reason} needs {wanted}: allow fewer, or give "
                    f"longer texts (data.max_{part}_bytes, data.excerpt_bytes)"
                )

    def _details(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "tokens": self.tokenizer.kind,
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer_sha256": self.tokenizer.fingerprint,
            "context_length": self.settings.data.context_length,
            "blocks": BLOCKS_BEGIN,
            "positions": f"{self.settings.model.positions}, none where the attention encodes them",
            "parts": sizes,
        }


def _highest_order(vocab_size: int) -> int:
    """The most tokens of context for which ``NGram`` can number a context and its next token in 63 bits."""
    order = 1
    while vocab_size ** (order + 2) < 2**63:
        order += 1
    return order

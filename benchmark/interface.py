"""The protocols of an attention and of a task, the words that the engine uses, and the types that both exchange."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure
    from pydantic import BaseModel
    from torch import Tensor, nn

Pattern = Literal["noncausal_self", "causal_self", "noncausal_cross", "causal_cross"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

Preset = Literal["smoke", "quick", "small", "gpu", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


class UnsupportedPattern(ValueError):
    """An attention was asked for a pattern that it declares it can't do."""


class Attention(Protocol):
    """An attention mechanism over projected heads: any ``nn.Module`` with these members; no base class is needed.

    The class declares, as plain literals (``lavo-bench list`` reads them without importing the module), ``version`` and
    ``unsupported``, and any of the others:

    version            raised whenever results change
    unsupported        pattern -> the reason why it can't be done; ``build_attention`` raises it
    encodes_positions  True: the backbone adds no positions for this attention (default False)
    linear_state       True: the size of the causal state is the same however much was read (default False)
    exact              True: it is softmax attention, and differs from ``softmax`` by rounding only
    control            True: it is a control and not a contender (``none``)
    needs_max_length   True: it takes the keyword ``max_length``, the longest length that it will be given
    sequence_patterns  patterns at which it is a PartedAttention as well (default none)
    checks_arguments   True: it checks its arguments itself; for all others ``build_attention`` puts checks in front

    The instance may set ``kernel``, the name of the kernel that ran last, for the records.  It may also have
    ``definition(q, k, v, key_padding_mask=None)``, the plain O(n^2) or looping form in the inputs' own precision;
    ``lavo-bench check`` compares ``forward`` and its gradients with it in float64.
    """

    version: ClassVar[int]
    unsupported: ClassVar[Mapping[str, str]]

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None: ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Attend.

        q: (batch, heads, target length, head_dim).  k, v: (batch, heads, source length, head_dim).
        key_padding_mask: bool (batch, source length), True where padded.  Returns the shape and dtype of q.
        """
        ...


class StreamingAttention(Attention, Protocol):
    """The further methods of a causal attention.  A state that is given to any of them stays valid afterwards.

    In a state, ``position`` is the number of tokens read (or queries answered), where it has such a field.
    """

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Any:
        """``causal_self``: the state before the first token."""
        ...

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """``causal_self``: any number of new tokens (0, 1 or more) after those that the state has read."""
        ...

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Any:
        """``causal_cross``: reads the whole source once."""
        ...

    def read(self, q: Tensor, state: Any) -> tuple[Tensor, Any]:
        """``causal_cross``: the next queries; the state may count them."""
        ...

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of these rows of the batch, repeated or left out (beam search).  rows: (new batch,) int64."""
        ...

    def state_bytes(self, state: Any) -> int:
        """Bytes that the state holds, counted from its tensors."""
        ...


class SequencePart(Protocol):
    """The part of every sequence of a batch that this process holds; consecutive parts make the whole sequence."""

    lengths: tuple[int, ...]  # of the parts of all processes
    rank: int
    bytes_sent: int  # what this process gave to others since the part was made

    @property
    def start(self) -> int:
        """The position of the first own token."""
        ...


class PartedAttention(Attention, Protocol):
    """An attention that, at its ``sequence_patterns``, can attend over a sequence whose parts lie with several processes.

    sequence_part  None, or set by the caller.  Then q, k and v of ``forward`` are this part of the sequence, without padding,
                   and so is the result.  All processes of torch.distributed call ``forward`` and its backward pass in the same
                   order.
    """

    sequence_part: SequencePart | None

    def make_part(self, length: int, *, num_parts: int, rank: int) -> SequencePart:
        """The ``rank``-th of the parts into which this attention cuts a sequence of this length."""
        ...


def state_tensors(state: Any) -> list[Tensor]:
    """All tensors of a state made of (nested) NamedTuples, tuples and lists, in order."""
    if state is None or isinstance(state, int | float | str):
        return []
    if isinstance(state, tuple | list):
        return [tensor for part in state for tensor in state_tensors(part)]
    return [state]


def state_bytes(state: Any) -> int:
    """Bytes held by a state, counted from its tensors."""
    return sum(tensor.nbytes for tensor in state_tensors(state))


def select_rows(state: Any, rows: Tensor) -> Any:
    """``select`` for a state whose every tensor has the batch as its first axis."""
    if state is None or isinstance(state, int | float | str):
        return state
    if isinstance(state, tuple | list):
        parts = [select_rows(part, rows) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state.index_select(0, rows.to(state.device))


Columns = Mapping[str, "np.ndarray"]
"""Values by example: column name -> array (examples,)."""


class Metric(NamedTuple):
    """A figure of the tables, made from columns that hold one value an example."""

    unit: str
    higher_is_better: bool
    value: Callable[[Columns], float]
    n: Callable[[Columns], int]
    card: str  # mean of what, times what: one sentence for the report


def mean_of(column: str, *, unit: str, card: str, higher_is_better: bool = False) -> Metric:
    """The mean over examples of one column."""
    return Metric(
        unit,
        higher_is_better,
        lambda columns: float(columns[column].mean()),
        lambda columns: len(columns[column]),
        card,
    )


class Splits(NamedTuple):
    """The three parts of a data set; each part has ``len`` and ``part[i]`` gives one example."""

    train: Sequence[Any]
    validation: Sequence[Any]
    test: Sequence[Any]
    name: str  # "embedded", or what the real data is called
    fingerprint: str  # SHA-256 of the bytes that were read or made
    embedded: bool
    details: Mapping[str, Any]  # what the model and the report must know: vocabulary, columns, sizes, conversions


class Attachment(NamedTuple):
    """Bytes within a task's ``curves`` (a sound, a picture), stored as a file of their own, once for all cells that share them."""

    content: bytes
    ending: str  # of the file's name, as "mp3"


class Sound(NamedTuple):
    """A recording that a report plays."""

    name: str  # becomes a file's name: lower-case letters, digits, _ and -
    content: bytes
    media_type: str  # "audio/mpeg" or "audio/ogg"


class Exhibit(NamedTuple):
    """A table of the report: test examples, and the output for them of each attention."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Sound, ...], ...]


class LossSum(NamedTuple):
    """A loss as a sum and its number of terms, so that the mean is the same however examples are grouped into batches."""

    total: Tensor  # scalar, in the graph
    num_terms: int | Tensor  # tokens, or values


class AttentionFactory(Protocol):
    """The factory from which a backbone gets its attention layers, without knowing the mechanism inside."""

    def __call__(
        self,
        pattern: Pattern,
        *,
        embed_dim: int,
        num_heads: int,
        max_length: int,
        dropout: float = 0.0,
        bias: bool = True,
        source_dim: int | None = None,
        rotary: bool = False,
    ) -> Any:
        """A ``MultiHeadAttention`` with the cell's attention at the cell's pattern, and with exact softmax elsewhere."""
        ...


class Task(Protocol):
    """One domain: a class with these attributes and methods, of which each cell makes an object.

    A task may have more, which the protocols below this one declare: CountsTokens, NamesSources, HasCurves, PartsSequences,
    and the modules FiguresModule and ExhibitsModule beside its own.

    name, version   the version is raised whenever results change
    backbones       backbone -> the patterns that can be replaced in it (a plain literal)
    settings        backbone -> pydantic model with the fields ``data``, ``model`` and ``eval``, which forbids unknown keys and
                    is checked before anything runs.  ``presets.yaml`` beside the module fills it.
    metrics         name -> Metric, computed from the columns that ``score`` gives; the first is the headline
    selection       the metric that chooses the checkpoint, on validation data
    floors          names of controls that are bounds, not trivial rules (a tuple, a plain literal; may be left out)
    """

    name: ClassVar[str]
    version: ClassVar[int]
    backbones: ClassVar[Mapping[str, tuple[Pattern, ...]]]
    settings: ClassVar[Mapping[str, type[BaseModel]]]
    metrics: ClassVar[Mapping[str, Metric]]
    selection: ClassVar[str]

    def __init__(self, settings: Any, *, backbone: str) -> None: ...

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The splits, read from ``data_root`` where given and made on the spot elsewhere.  Called before the methods below.

        ``cache`` is a folder for data that take long to make; a file in it is named by the fingerprint of its sources.
        Raises ``ValueError`` with one line (file, place, fault, what is allowed) for data that can't be used.
        """
        ...

    def collate(self, examples: Sequence[Any]) -> Any:
        """A batch (NamedTuple of tensors) of examples."""
        ...

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """The backbone; called after ``load_data``, whose splits the task keeps."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> LossSum:
        """The training loss."""
        ...

    def score(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """One value an example, column by column; called without gradients, in evaluation mode."""
        ...

    def controls(self) -> Mapping[str, Columns]:
        """The scores of trivial rules on the test part: name -> the columns that ``score`` would give."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A task that counts the tokens of its training batches, for the record's ``tokens_per_second``."""

    def tokens(self, batch: Any) -> int:
        """The number of real tokens of a batch."""
        ...


@runtime_checkable
class NamesSources(Protocol):
    """A task whose settings decide which files of its ``sources.yaml`` are needed; without this all of them are."""

    def sources(self, data_root: Path) -> Collection[str]:
        """The paths of the manifest that ``load_data`` would read.  Called before ``load_data``."""
        ...


@runtime_checkable
class HasCurves(Protocol):
    """A task that measures more of a trained model than its metrics, for its figures and exhibits."""

    def curves(self, model: nn.Module) -> Mapping[str, Any]:
        """JSON values by name, for the record's ``curves``."""
        ...


@runtime_checkable
class PartsSequences(Protocol):
    """A task whose batches can be cut along the sequence, for ``train.parallel = sequence``.

    ``collate`` must make the same batch in every process.  Everything in the model except attention must work token by token,
    with positions from ``MultiHeadAttention.first_position`` on.
    """

    def sequence_length(self, batch: Any) -> int:
        """The length of the sequences of a training batch."""
        ...

    def part_of(self, batch: Any, part: SequencePart) -> Any:
        """The share of a batch that belongs to one part; ``loss`` of all parts adds up to ``loss`` of the batch."""
        ...


class FiguresModule(Protocol):
    """``tasks/<task>/figures.py``, where there is one."""

    def figures(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Figure | None]:
        """The task's own figures of the completed records of one group, by name."""
        ...


class ExhibitsModule(Protocol):
    """``tasks/<task>/exhibits.py``, where there is one."""

    def exhibits(self, records: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
        """Outputs of the completed records of one group that can be read or listened to."""
        ...

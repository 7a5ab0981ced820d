"""What an attention and a task are to the engine: the words, the two protocols, and what travels between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, get_args

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from pydantic import BaseModel
    from torch import Tensor, nn

Pattern = Literal["noncausal_self", "causal_self", "noncausal_cross", "causal_cross"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

Preset = Literal["smoke", "quick", "small", "gpu", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


class UnsupportedPattern(ValueError):
    """An attention was asked for a pattern that it declares it can't do."""


class Attention(Protocol):
    """An attention mechanism over projected heads; any ``nn.Module`` of this shape will do, no base class is needed.

    Declared on the class (only ``version`` and ``unsupported`` must be there, and both must be plain literals, because
    ``lavo-bench list`` reads them without importing the module):

    version            raised whenever results change
    unsupported        pattern -> the reason why it can't be done; ``build_attention`` raises it
    encodes_positions  True: a backbone that would add positions for this attention's sake adds none (default False)
    linear_state       True: the causal state's size doesn't depend on how much was read (default False)
    exact              True: computes softmax attention exactly, so that it may differ from softmax by rounding only
    control            True: not a contender but a control (``none``)
    needs_max_length   True: takes the keyword ``max_length``, the longest length that it will meet
    sequence_patterns  patterns of which it is a PartedAttention too (default none)

    Set on the instance where it applies: ``kernel``, the name of the kernel that ran last, for the records.
    ``definition(q, k, v, key_padding_mask=None)``, where present, is the plain O(n^2) or looping form in the inputs'
    own precision; ``lavo-bench check`` compares ``forward`` and its gradients with it in float64.
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
    """What a causal attention has besides; a state given to any of these stays valid afterwards."""

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Any: ...

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """``causal_self``: any number of new tokens (0, 1 or more) after those the state has read."""
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

    def state_bytes(self, state: Any) -> int: ...


class SequencePart(Protocol):
    """Which part of every sequence of a batch this process holds; consecutive parts make the whole."""

    lengths: tuple[int, ...]  # of the parts of all processes
    rank: int
    bytes_sent: int  # what this process gave to others since the part was made

    @property
    def start(self) -> int:
        """The position of the first own token."""
        ...


class PartedAttention(Attention, Protocol):
    """What an attention has besides, at its ``sequence_patterns``, if a sequence may lie in parts with several processes.

    sequence_part  None, or set by the caller: q, k and v of ``forward`` are then this part's, without padding, and so is
                   the result.  All processes of torch.distributed call it, and its backward pass, in the same order.
    """

    sequence_part: SequencePart | None

    def make_part(self, length: int, *, num_parts: int, rank: int) -> SequencePart:
        """The ``rank``-th of the parts into which this attention likes a sequence of this length to be cut."""
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
    """How a table's figure is made from columns that hold one value an example."""

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
    """Test examples beside what each attention made of them, as a table of the report."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Sound, ...], ...]


class LossSum(NamedTuple):
    """A loss as a sum, and the number of terms in it, so that no grouping into batches changes the mean."""

    total: Tensor  # scalar, in the graph
    num_terms: int | Tensor  # tokens, or values


class AttentionFactory(Protocol):
    """What a backbone asks for its attention layers; it never learns which mechanism is inside."""

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
        """A ``MultiHeadAttention``: the cell's attention at the cell's pattern, exact softmax elsewhere."""
        ...


class Task(Protocol):
    """One domain.  A class with these class attributes and methods, one object a cell.

    name, version   the version is raised whenever results change
    backbones       backbone -> the patterns that can be replaced in it (a plain literal)
    settings        backbone -> pydantic model with the fields ``data``, ``model`` and ``eval``, checked before anything
                    runs; a model that forbids unknown keys.  ``presets.yaml`` beside the module fills it.
    metrics         name -> Metric, computed from the columns that ``score`` gives; the first is the headline
    selection       the metric that chooses the checkpoint, on validation data
    floors          controls that no trivial rule is, but what is best possible here (a tuple, a plain literal; may be left out)
    """

    name: ClassVar[str]
    version: ClassVar[int]
    backbones: ClassVar[Mapping[str, tuple[Pattern, ...]]]
    settings: ClassVar[Mapping[str, type[BaseModel]]]
    metrics: ClassVar[Mapping[str, Metric]]
    selection: ClassVar[str]

    def __init__(self, settings: Any, *, backbone: str) -> None: ...

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The splits; from ``data_root`` where given, else made on the spot.  Called before all that follows.

        Raises ``ValueError`` with one line (file, place, fault, what is allowed) for data that can't be used.
        ``cache`` is a folder for what is costly to make; a file in it is named by the fingerprint of its sources.
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
        """What trivial rules score on the test part: name -> the columns that ``score`` would give."""
        ...

    # Optional:
    #   sequence_length(batch) -> int, part_of(batch, part: SequencePart) -> batch: how long the sequences of a training batch
    #           are, and what of it belongs to one part, so that ``loss`` over all parts adds up to ``loss`` of the batch.
    #           Both or neither; ``collate`` must then make the same batch in every process, and what of the model isn't
    #           attention must work token by token, positions from ``MultiHeadAttention.first_position`` on.
    #   curves(model) -> dict   JSON values for the record's ``curves``: what the task's figures show
    #   figures in tasks/<task>/figures.py: figures(records) -> dict[str, matplotlib.figure.Figure]
    #   exhibits in tasks/<task>/exhibits.py: exhibits(records) -> list[Exhibit], what can be read or listened to

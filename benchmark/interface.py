"""The protocols of an attention and of a task, the names of patterns and presets, and the types that are exchanged."""

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

EVERY = "every"
"""The pseudo-pattern of a cell in which every attention of the backbone is replaced."""

REFERENCE = "softmax"
"""The exact attention that every other site of a cell keeps, and with which the others are compared."""

NOTHING = "none"
"""The control with which softmax is compared at every site."""

Preset = Literal["smoke", "quick", "small", "gpu", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


class UnsupportedPattern(ValueError):
    """Raised when an attention is asked for a pattern that it declares unsupported."""


class Attention(Protocol):
    """An attention mechanism over projected heads: any ``nn.Module`` with these members; no base class is needed.

    The class declares, as plain literals (``lavo-bench list`` reads them without importing the module), ``version`` and
    ``unsupported``, and any of the others:

    version            raised whenever results change
    unsupported        pattern -> the reason why it can't be done; ``build_attention`` raises UnsupportedPattern with it
    encodes_positions  True: the backbone adds no positions for this attention (default False)
    linear_state       True: the causal state has one size, however many tokens were read (default False)
    exact              True: it is softmax attention, and differs from ``softmax`` by rounding only
    control            True: it is a control, like ``none``, and not compared as an attention
    normalised         True: its output is an average of the values, so equal values come out unchanged
    linear_values      True: its output is linear in v, for any q and k
    mixes_heads        True: a head's output depends on other heads too (default False)
    needs_max_length   True: it takes the keyword ``max_length``, the longest length that it will be given
    sequence_patterns  patterns for which it is a PartedAttention as well (default none)
    settled_options    static method (options, head_dim): fills in those options whose defaults depend on head_dim
    checks_arguments   True: it checks its arguments itself; for all others ``build_attention`` adds the checks

    The instance may set ``kernel``, the name of the kernel that ran last, for the records.  It may also have
    ``definition(q, k, v, key_padding_mask=None)``, the plain O(n^2) or looping form in the inputs' own precision;
    ``lavo-bench check`` compares ``forward`` and its gradients with it in float64.
    """

    version: ClassVar[int]
    unsupported: ClassVar[Mapping[str, str]]

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None: ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Returns the output, with the shape and dtype of q.

        q: (batch, heads, target length, head_dim).  k, v: (batch, heads, source length, head_dim).
        key_padding_mask: bool (batch, source length), True where padded.
        """
        ...


class StreamingAttention(Attention, Protocol):
    """The further methods of a causal attention.  The state that a method is given stays valid afterwards.

    If a state has a field ``position``, that is the number of tokens read (or of queries answered).
    """

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Any:
        """For ``causal_self``: returns the state before the first token."""
        ...

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """For ``causal_self``: reads any number of new tokens (0 too); returns their output and the next state."""
        ...

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Any:
        """For ``causal_cross``: reads the whole source once and returns the state."""
        ...

    def read(self, q: Tensor, state: Any) -> tuple[Tensor, Any]:
        """For ``causal_cross``: returns the output for the next queries, and the next state, which may count them."""
        ...

    def select(self, state: Any, rows: Tensor) -> Any:
        """Returns the state of these rows of the batch; beam search repeats some and leaves out others.

        rows: (new batch,) int64.
        """
        ...

    def state_bytes(self, state: Any) -> int:
        """Returns the number of bytes that the state holds, counted from its tensors."""
        ...


STREAMING: Mapping[str, tuple[str, ...]] = {
    "causal_self": ("init_state", "extend", "select", "state_bytes"),
    "causal_cross": ("init_cross", "read", "select", "state_bytes"),
}
"""The methods of a StreamingAttention by pattern.  An attention without any of them can still be used where nothing streams."""


def missing_methods(cls: type, pattern: str) -> tuple[str, ...]:
    """Returns the streaming methods that an attention lacks at a pattern; none for a noncausal one."""
    return tuple(name for name in STREAMING.get(pattern, ()) if not callable(getattr(cls, name, None)))


class SequencePart(Protocol):
    """This process's part of every sequence of a batch; the parts of all processes together are the whole sequences."""

    lengths: tuple[int, ...]  # number of tokens in the part of each process
    rank: int  # of this process
    bytes_sent: int  # by this process to others since the part was made

    @property
    def start(self) -> int:
        """The position in the whole sequence of this part's first token."""
        ...


class PartedAttention(Attention, Protocol):
    """An attention that, for its ``sequence_patterns``, can attend over a sequence of which each process holds one part.

    sequence_part  None, or the part that this process holds; the caller sets it.  If it is set, q, k and v of ``forward`` are
                   this part of the sequence, without padding, and so is the output.  All processes of torch.distributed
                   must call ``forward`` and its backward pass in the same order.
    """

    sequence_part: SequencePart | None

    def make_part(self, length: int, *, num_parts: int, rank: int) -> SequencePart:
        """Cuts a sequence of ``length`` tokens into parts, and returns the part of process ``rank``."""
        ...


def state_tensors(state: Any) -> list[Tensor]:
    """Returns all tensors of a state made of (nested) NamedTuples, tuples and lists, in order."""
    if state is None or isinstance(state, int | float | str):
        return []
    if isinstance(state, tuple | list):
        return [tensor for part in state for tensor in state_tensors(part)]
    return [state]


def state_bytes(state: Any) -> int:
    """Returns the number of bytes that a state holds, counted from its tensors."""
    return sum(tensor.nbytes for tensor in state_tensors(state))


def select_rows(state: Any, rows: Tensor) -> Any:
    """Implements ``select`` for a state in which the first axis of every tensor is the batch."""
    if state is None or isinstance(state, int | float | str):
        return state
    if isinstance(state, tuple | list):
        parts = [select_rows(part, rows) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state.index_select(0, rows.to(state.device))


Columns = Mapping[str, "np.ndarray"]
"""One value for each example: column name -> array (examples,)."""


class Sums(NamedTuple):
    """A metric written as a function of sums over examples, so that a test can resample the examples thousands of times at once.

    terms   columns -> float64 (examples, k), the values that are summed over examples
    value   sums (..., k) -> the metric (...)
    """

    terms: Callable[[Columns], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]


class Metric(NamedTuple):
    """A figure of the tables, computed from columns that hold one value for each example."""

    unit: str
    higher_is_better: bool
    value: Callable[[Columns], float]
    n: Callable[[Columns], int]  # number of examples that the value is made of
    card: str  # one sentence for the report: what is averaged, and times what
    sums: Sums | None = None  # the same figure from sums over examples; without it, tests over examples take longer


def mean_of(column: str, *, unit: str, card: str, higher_is_better: bool = False) -> Metric:
    """Returns the metric that is the mean of one column over the examples."""
    return Metric(
        unit,
        higher_is_better,
        lambda columns: float(columns[column].mean()),
        lambda columns: len(columns[column]),
        card,
        Sums(lambda columns: with_ones(columns[column]), lambda sums: sums[..., 0] / sums[..., 1]),
    )


def with_ones(values: np.ndarray) -> np.ndarray:
    """Returns (examples, 2): the values, and a 1 for each, so that the ratio of the sums is the mean."""
    import numpy as np

    return np.stack([values, np.ones(len(values))], axis=-1)


def ratio_of(numerator: str, denominator: str) -> Sums:
    """Returns the ratio of the sums of two columns."""
    import numpy as np

    def terms(columns: Columns) -> np.ndarray:
        return np.stack([columns[numerator], columns[denominator]], axis=-1).astype(np.float64)

    return Sums(terms, lambda sums: sums[..., 0] / sums[..., 1])


class Splits(NamedTuple):
    """The three parts of a data set.  ``len(part)`` is the number of examples in a part, ``part[i]`` is one of them."""

    train: Sequence[Any]
    validation: Sequence[Any]
    test: Sequence[Any]
    name: str  # "embedded", or what the real data is called
    fingerprint: str  # SHA-256 of the bytes that were read or made
    embedded: bool
    details: Mapping[str, Any]  # what the model and the report must know: vocabulary, columns, sizes, conversions


class Attachment(NamedTuple):
    """Bytes within a task's ``curves``, such as a sound; stored in a file, once for all cells that have the same bytes."""

    content: bytes
    ending: str  # of the file's name, such as "mp3"


class Sound(NamedTuple):
    """A recording that a report plays."""

    name: str  # becomes a file's name: lower-case letters, digits, _ and -
    content: bytes
    media_type: str  # "audio/mpeg" or "audio/ogg"


class Exhibit(NamedTuple):
    """A table of the report that shows test examples and what each attention made of them."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Sound, ...], ...]


class LossSum(NamedTuple):
    """A loss as a sum and its number of terms, so that the mean is the same however examples are grouped into batches."""

    total: Tensor  # scalar, in the graph
    num_terms: int | Tensor  # number of tokens, or of values


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
        """Returns a ``MultiHeadAttention``: with the cell's attention if ``pattern`` is the cell's, else with exact softmax."""
        ...


class Task(Protocol):
    """One domain, such as forecasting.  The engine makes an object of the class for each cell.

    The protocols below declare what a task may have besides: the methods of LearnsRules, ScoresTestInFull, CountsTokens,
    NamesSources, HasCurves and PartsSequences, and the modules FiguresModule and ExhibitsModule in its folder.

    name, version   the version is raised whenever results change
    backbones       backbone -> the patterns that can be replaced in it (a plain literal)
    settings_of     backbone -> pydantic model with the fields ``data``, ``model`` and ``eval``, which forbids unknown keys.  It
                    is filled from ``presets.yaml`` beside the module, and checked before anything runs.
    metrics         name -> Metric, computed from the columns that ``score`` gives; the first is the headline
    selection       the metric that chooses the checkpoint, on validation data
    streams         backbone -> the patterns whose layers are read piece by piece when the task is evaluated, and so need the
                    methods of a StreamingAttention (optional; a plain literal)
    floors          names of controls that are bounds, not trivial rules (optional; a tuple, a plain literal)
    separate_models True: the backbone is another model for each pattern, and has attentions of that pattern only; the class
                    is then made with the keyword ``pattern`` as well (optional, False if left out; a plain literal)
    """

    name: ClassVar[str]
    version: ClassVar[int]
    backbones: ClassVar[Mapping[str, tuple[Pattern, ...]]]
    settings_of: ClassVar[Mapping[str, type[BaseModel]]]
    metrics: ClassVar[Mapping[str, Metric]]
    selection: ClassVar[str]

    def __init__(self, settings: Any, *, backbone: str) -> None: ...

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """Returns the splits, read from ``data_root`` if it is given, generated otherwise.  Called before the methods below.

        ``cache`` is a folder for data that take long to make; a file in it is named by the fingerprint of its sources.
        Raises ``ValueError`` with one line (file, place, fault, what is allowed) for data that can't be used.
        """
        ...

    def collate(self, examples: Sequence[Any]) -> Any:
        """Returns a batch (a NamedTuple of tensors) of these examples."""
        ...

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """Returns the backbone.  Called after ``load_data``, whose splits the task must keep if it needs them here."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> LossSum:
        """Returns the training loss."""
        ...

    def score(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Returns columns with one value for each example.  Called without gradients, in evaluation mode."""
        ...

    def controls(self) -> Mapping[str, Columns]:
        """Returns what trivial rules score on the test part: rule -> the columns that ``score`` would return for it."""
        ...


@runtime_checkable
class LearnsRules(Protocol):
    """A task with trivial rules that learn from the training part, such as n-gram counts."""

    def controls_after(self, num_examples: int) -> Mapping[str, Columns]:
        """Returns what ``controls`` does, for rules that have seen no more than the model has.

        num_examples: the number of examples that the model is trained on, counting repetitions.  The engine calls this
        instead of ``controls``.
        """
        ...


CLUSTER = "cluster"
"""The column of the test examples' values that holds ``Clustered.clusters``."""


@runtime_checkable
class Clustered(Protocol):
    """A part of a data set in which some examples depend on each other, such as blocks of one document or views of one shape.

    Tests over examples then resample whole clusters.
    """

    @property
    def clusters(self) -> np.ndarray:
        """The cluster of each example, int (examples,).  Examples of different clusters are independent."""
        ...


@runtime_checkable
class ScoresTestInFull(Protocol):
    """A task whose ``score`` gives more for test examples, because that takes long."""

    def as_test(self, part: Sequence[Any]) -> Sequence[Any]:
        """Returns the same examples as test examples: a trial of ``lavo-bench tune`` is judged in full on validation data."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A task that counts the tokens of its training batches, for the record's ``tokens_per_second``."""

    def tokens(self, batch: Any) -> int:
        """Returns the number of tokens in a batch, without padding."""
        ...


@runtime_checkable
class NamesSources(Protocol):
    """A task whose settings decide which sets of its ``sources.yaml`` are needed; other tasks need all of them."""

    def sources(self, data_root: Path) -> Collection[str]:
        """Returns the paths that ``load_data`` would read; of ``sources.yaml`` the sets that make one are fetched before."""
        ...


@runtime_checkable
class HasCurves(Protocol):
    """A task that measures more on a trained model than its metrics, for its figures and exhibits."""

    def curves(self, model: nn.Module) -> Mapping[str, Any]:
        """Returns JSON values by name, for the record's ``curves``; they may contain an ``Attachment`` at any depth.

        The bytes of an ``Attachment`` are stored once, in a file named by their digest, for all cells that share them.
        ``Record.attachment`` reads them back.
        """
        ...


@runtime_checkable
class PartsSequences(Protocol):
    """A task whose batches can be cut along the sequence, for ``train.parallel = sequence``.

    ``collate`` must make the same batch in every process.  Everything in the model except attention must work token by token,
    with positions from ``MultiHeadAttention.first_position`` on.
    """

    def sequence_length(self, batch: Any) -> int:
        """Returns the number of tokens in each sequence of a training batch."""
        ...

    def part_of(self, batch: Any, part: SequencePart) -> Any:
        """Returns the share of a batch that belongs to one part.

        The losses of all parts (``loss``) must add up to the loss of the whole batch.
        """
        ...


class FiguresModule(Protocol):
    """The optional module ``tasks/<task>/figures.py``."""

    def figures(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Figure | None]:
        """Returns the task's own figures by name.  records: the completed ones of one table."""
        ...


class ExhibitsModule(Protocol):
    """The optional module ``tasks/<task>/exhibits.py``."""

    def exhibits(self, records: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
        """Returns outputs that can be read or listened to.  records: the completed ones of one table."""
        ...

"""``attention_transformer``: the Transformer of the summarisation task as an encoder-decoder model of fairseq."""

# This file does not import ``annotations`` from ``__future__``, because fairseq builds its flags from the field types at run
# time.
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel, FairseqIncrementalDecoder, register_model
from omegaconf import II
from torch import Tensor

from benchmark.interface import Pattern
from lavo_fairseq.sites import attention_sites
from tasks.summarization.transformer import Transformer

PATTERNS: tuple[Pattern, ...] = ("noncausal_self", "causal_self", "causal_cross")
STATE = "transformer"


@dataclass
class AttentionTransformerConfig(FairseqDataclass):
    """The flags of ``--arch attention_transformer``.  The flags for sizes have the names that fairseq's own models use."""

    attention: str = field(
        default="lavo", metadata={"help": "name of the attention; lavo-bench list attentions prints the names"}
    )
    attention_pattern: str = field(
        default="causal_cross",
        metadata={
            "help": "where in the model the attention is used: noncausal_self (encoder), causal_self (decoder) or causal_cross"
        },
    )
    attention_options: str = field(
        default="{}", metadata={"help": "options of the attention, as JSON: '{\"rank\": 32}'"}
    )
    encoder_embed_dim: int = field(default=512, metadata={"help": "width of encoder and decoder"})
    encoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of all feed-forward layers"})
    encoder_layers: int = field(default=6, metadata={"help": "number of layers of the encoder"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers of the decoder"})
    encoder_attention_heads: int = field(default=8, metadata={"help": "number of heads of every attention layer"})
    dropout: float = field(
        default=0.1, metadata={"help": "dropout rate on embeddings, attention outputs and feed-forward layers"}
    )
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "use one embedding matrix for source, target and output"}
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")


@register_model("attention_transformer", dataclass=AttentionTransformerConfig)
class AttentionTransformer(FairseqEncoderDecoderModel):
    """``backbone`` is the Transformer of this project.  Its ``state_dict`` can be loaded and saved as it is."""

    def __init__(self, backbone: Transformer, source: Any, target: Any, lengths: tuple[int, int]) -> None:
        super().__init__(SourceEncoder(source, backbone, lengths[0]), TargetDecoder(target, backbone, lengths[1]))
        self.backbone = backbone

    @classmethod
    def build_model(cls, cfg: AttentionTransformerConfig, task: Any) -> "AttentionTransformer":
        """Returns the model that these flags describe.  Raises ValueError if source and target have two dictionaries."""
        source, target = task.source_dictionary, task.target_dictionary
        if source != target:
            raise ValueError(
                "attention_transformer: source and target must share one dictionary, but have two "
                f"({len(source)} and {len(target)} words); make the data with fairseq-preprocess --joined-dictionary"
            )
        backbone = Transformer(
            attention_sites(cfg.attention, cfg.attention_pattern, cfg.attention_options, patterns=PATTERNS),
            vocab_size=len(target),
            embed_dim=cfg.encoder_embed_dim,
            num_encoder_layers=cfg.encoder_layers,
            num_decoder_layers=cfg.decoder_layers,
            num_heads=cfg.encoder_attention_heads,
            feed_forward_dim=cfg.encoder_ffn_embed_dim,
            max_source_length=cfg.max_source_positions,
            max_target_length=cfg.max_target_positions,
            dropout=cfg.dropout,
            share_embeddings=cfg.share_all_embeddings,
        )
        return cls(backbone, source, target, (cfg.max_source_positions, cfg.max_target_positions))


class EncodedSource(NamedTuple):
    """The output of the encoder, for the decoder.

    ``rows`` says which source each row of the decoder's batch reads, so that all beams of a source share one copy of it.
    """

    memory: Tensor  # (sources, source length, embed_dim)
    padding: Tensor | None  # bool (sources, source length), True where padded
    rows: Tensor  # (batch,) int64


class SourceEncoder(FairseqEncoder):
    """The encoder of the backbone, in fairseq's interface.

    The backbone is held in a tuple, so that torch does not register it as a submodule.  It is registered in
    ``AttentionTransformer`` already, and its weights would otherwise be saved twice.
    """

    def __init__(self, dictionary: Any, backbone: Transformer, longest: int) -> None:
        super().__init__(dictionary)
        self.owner, self.longest = (backbone,), longest

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> EncodedSource:
        """Encodes src_tokens, (batch, source length), which may be padded on the left or on the right."""
        tokens, padding = pad_right(src_tokens, self.dictionary.pad())
        rows = torch.arange(len(tokens), device=tokens.device)
        return EncodedSource(self.owner[0].encode(tokens, padding), padding, rows)

    def reorder_encoder_out(self, encoder_out: EncodedSource, new_order: Tensor) -> EncodedSource:
        """Returns the encoded sources of these rows, which may repeat or leave out some.  new_order: (new batch,) int64."""
        return encoder_out._replace(rows=encoder_out.rows.index_select(0, new_order))

    def max_positions(self) -> int:
        """Returns the longest input; fairseq calls this."""
        return self.longest


class TargetDecoder(FairseqIncrementalDecoder):
    """The decoder of the backbone, in fairseq's interface.

    Returns logits for whole targets, or, with an incremental state, only for the tokens not yet read into it.  Like the
    encoder, it holds the backbone in a tuple.
    """

    def __init__(self, dictionary: Any, backbone: Transformer, longest: int) -> None:
        super().__init__(dictionary)
        self.owner, self.longest = (backbone,), longest

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncodedSource,
        incremental_state: dict[str, Any] | None = None,
    ) -> tuple[Tensor, None]:
        """Computes logits, (batch, length, vocabulary); with ``incremental_state`` only for tokens not yet read into it.

        prev_output_tokens: (batch, length), padded on the right.  No mask is needed, because a causal attention never looks at
        what is to the right.
        """
        (backbone,) = self.owner
        memory, padding, rows = encoder_out
        if incremental_state is None:
            padding = None if padding is None else padding[rows]
            return backbone.decode(prev_output_tokens, memory[rows], padding), None
        state: Any = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            # The state is made for the sources first, so that each source is read only once for all its beams.
            state = backbone.select(backbone.init_state(memory, padding), rows)
        logits, state = backbone.extend(prev_output_tokens[:, state.position :], state)
        self.set_incremental_state(incremental_state, STATE, state)
        return logits, None

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> None:
        """Selects rows of the state, which may repeat; beam search calls this after each step.  new_order: (new batch,)."""
        state: Any = self.get_incremental_state(incremental_state, STATE)
        if state is not None:
            self.set_incremental_state(incremental_state, STATE, self.owner[0].select(state, new_order))

    def max_positions(self) -> int:
        """Returns the longest input; fairseq calls this."""
        return self.longest


def pad_right(tokens: Tensor, pad: int) -> tuple[Tensor, Tensor | None]:
    """Moves the padding of tokens (batch, length) to the end, so that real tokens have the positions 0, 1, ….

    Returns the tokens and their padding mask (batch, length), True where padded, or None if nothing is padded.
    """
    padding = tokens == pad
    if not bool(padding.any()):
        return tokens, None
    order = padding.to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.gather(1, order), padding.gather(1, order)

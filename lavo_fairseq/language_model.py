"""``attention_lm``: the GPT of the language-modelling task as a language model of fairseq."""

# This file does not import ``annotations`` from ``__future__``, because fairseq builds its flags from the field types at run
# time.  It understands ``Optional[int]`` but not ``int | None``.
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel, register_model
from omegaconf import II
from torch import Tensor

from benchmark.interface import Pattern
from lavo_fairseq.sites import UNLIMITED, attention_sites, longest_input
from tasks.language_modeling.gpt import GPT, GPTState

PATTERNS: tuple[Pattern, ...] = ("causal_self",)
STATE = "gpt"


@dataclass
class AttentionLanguageModelConfig(FairseqDataclass):
    """The flags of ``--arch attention_lm``.  The flags for sizes have the names that fairseq's own models use."""

    attention: str = field(
        default="lavo", metadata={"help": "name of the attention; lavo-bench list attentions prints the names"}
    )
    attention_pattern: str = field(
        default="causal_self",
        metadata={"help": "where in the model the attention is used; a language model has only causal_self"},
    )
    attention_options: str = field(
        default="{}", metadata={"help": "options of the attention, as JSON: '{\"rank\": 32}'"}
    )
    decoder_embed_dim: int = field(default=512, metadata={"help": "width of the model"})
    decoder_ffn_embed_dim: Optional[int] = field(
        default=None, metadata={"help": "width of the feed-forward layers; default: 4 * decoder_embed_dim"}
    )
    decoder_layers: int = field(default=6, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of heads of every attention layer"})
    positions: ChoiceEnum(["sinusoidal", "learned", "rotary", "none"]) = field(  # type: ignore[valid-type]
        default="sinusoidal",
        metadata={"help": "position encoding; ignored if the attention encodes positions itself"},
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout rate on embeddings, attention outputs and feed-forward layers"}
    )
    embedding_std: Optional[float] = field(
        default=None,
        metadata={"help": "standard deviation of the embedding weights at initialisation; default: embed_dim^-0.5"},
    )
    add_bos_token: bool = II("task.add_bos_token")
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")


@register_model("attention_lm", dataclass=AttentionLanguageModelConfig)
class AttentionLanguageModel(FairseqLanguageModel):
    """``decoder.backbone`` is the GPT, whose ``state_dict`` can be loaded and saved unchanged."""

    @classmethod
    def build_model(cls, cfg: AttentionLanguageModelConfig, task: Any) -> "AttentionLanguageModel":
        """Returns the model that these flags describe."""
        # The token at the beginning, if there is one, comes on top of the tokens of a sample.
        built_for = (cfg.max_target_positions or cfg.tokens_per_sample) + int(cfg.add_bos_token)
        settings = cfg.attention, cfg.attention_pattern, cfg.attention_options
        backbone = GPT(
            attention_sites(*settings, patterns=PATTERNS),
            vocab_size=len(task.source_dictionary),
            embed_dim=cfg.decoder_embed_dim,
            num_layers=cfg.decoder_layers,
            num_heads=cfg.decoder_attention_heads,
            context_length=built_for,
            feed_forward_dim=cfg.decoder_ffn_embed_dim,
            positions=str(cfg.positions),
            dropout=cfg.dropout,
            embedding_std=cfg.embedding_std,
        )
        longest = longest_input(*settings, side=PATTERNS, built_for=built_for)
        return cls(GPTDecoder(task.target_dictionary, backbone, longest))


class GPTDecoder(FairseqIncrementalDecoder):
    """The GPT in fairseq's interface.

    Returns logits for whole sequences, or, with an incremental state, only for the tokens not yet read into it.
    longest: the longest input of the attention; the position encoding of the GPT may limit it further.
    """

    def __init__(self, dictionary: Any, backbone: GPT, longest: int = UNLIMITED) -> None:
        super().__init__(dictionary)
        self.backbone = backbone
        self.longest = min(longest, backbone.max_length or UNLIMITED)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: None = None,
        incremental_state: dict[str, Any] | None = None,
        src_lengths: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Computes logits, (batch, length, vocabulary); with ``incremental_state`` only for tokens not yet read into it.

        prev_output_tokens: (batch, length), padded on the right.  No mask is needed, because a causal attention never looks at
        what is to the right.
        """
        if incremental_state is None:
            return self.backbone(prev_output_tokens), None
        state: Any = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            state = self.backbone.init_state(len(prev_output_tokens))
        logits, state = self.backbone.extend(prev_output_tokens[:, state.position :], state)
        self.set_incremental_state(incremental_state, STATE, state)
        return logits, None

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> None:
        """Selects rows of the state, which may repeat; beam search calls this after each step.  new_order: (new batch,)."""
        state: Any = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            return
        layers = tuple(
            block.attention.select(layer, new_order)
            for block, layer in zip(self.backbone.blocks, state.layers, strict=True)
        )
        selected = GPTState(state.position, layers, state.recent.index_select(0, new_order))
        self.set_incremental_state(incremental_state, STATE, selected)

    def max_positions(self) -> int:
        """Returns the longest input; fairseq calls this."""
        return self.longest

"""``attention_lm``: the GPT of the language-modelling task as a language model of fairseq."""

# Without postponed annotations, because fairseq makes its flags from the types of the fields; it knows Optional, not ``|``.
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
    """The flags of ``--arch attention_lm``; sizes carry fairseq's names."""

    attention: str = field(default="lavo", metadata={"help": "an attention of lavo-bench list attentions"})
    attention_pattern: str = field(default="causal_self", metadata={"help": "the sites where it stands: causal_self"})
    attention_options: str = field(default="{}", metadata={"help": "JSON, its options: '{\"rank\": 32}'"})
    decoder_embed_dim: int = field(default=512, metadata={"help": "width"})
    decoder_ffn_embed_dim: Optional[int] = field(default=None, metadata={"help": "default: 4 decoder_embed_dim"})
    decoder_layers: int = field(default=6, metadata={"help": "blocks"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "heads"})
    positions: ChoiceEnum(["sinusoidal", "learned", "rotary"]) = field(  # type: ignore[valid-type]
        default="sinusoidal", metadata={"help": "for an attention that encodes none itself"}
    )
    dropout: float = field(default=0.1, metadata={"help": "on embeddings, attention outputs and feed-forward layers"})
    embedding_std: Optional[float] = field(
        default=None, metadata={"help": "deviation of the first embeddings; default: embed_dim^-0.5"}
    )
    add_bos_token: bool = II("task.add_bos_token")
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")


@register_model("attention_lm", dataclass=AttentionLanguageModelConfig)
class AttentionLanguageModel(FairseqLanguageModel):
    """``decoder.backbone`` is the GPT, whose ``state_dict`` can be loaded and saved unchanged."""

    @classmethod
    def build_model(cls, cfg: AttentionLanguageModelConfig, task: Any) -> "AttentionLanguageModel":
        """The model of these flags."""
        # The begin token comes on top of the tokens of a block.
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
    """Logits of whole sequences, or of the tokens that the state has not read."""

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
        """prev_output_tokens: (batch, length), padded on the right, which real tokens never see.

        Returns logits (batch, length, vocabulary); with ``incremental_state`` only those of tokens it has not read.
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
        """Replaces the state by these rows of it, as beam search asks after each step.  new_order: (new batch,) int64."""
        state: Any = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            return
        layers = tuple(
            block.attention.select(layer, new_order)
            for block, layer in zip(self.backbone.blocks, state.layers, strict=True)
        )
        self.set_incremental_state(incremental_state, STATE, GPTState(state.position, layers))

    def max_positions(self) -> int:
        """The longest input, in fairseq's interface."""
        return self.longest

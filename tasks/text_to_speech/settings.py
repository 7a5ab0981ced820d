"""The settings of the task, which presets and --set fill."""

from __future__ import annotations

from pydantic import Field, model_validator

from benchmark.settings import Settings
from tasks.text_to_speech.data import MOST_SHOWN, DataSettings


def _check_heads(embed_dim: int, num_heads: int) -> None:
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")


def _check_odd(name: str, *sizes: int) -> None:
    for size in sizes:
        if size % 2 == 0 or size < 1:
            raise ValueError(
                f"{name} {size}: an odd size is needed, because an even one would change the sequence's length"
            )


class EvalSettings(Settings):
    """How spectrograms become speech, and how much of it a record keeps."""

    griffin_lim_iterations: int = Field(default=32, ge=1)
    vocoder_checkpoint: str | None = Field(
        default=None, description="of a HiFi-GAN generator, which replaces Griffin-Lim"
    )
    vocoder_config: str | None = Field(default=None, description="its config.json")
    num_shown: int = Field(
        default=2,
        ge=0,
        le=MOST_SHOWN,
        description="number of test utterances, the shortest, whose sound the record keeps",
    )

    @model_validator(mode="after")
    def _both_files(self) -> EvalSettings:
        if (self.vocoder_checkpoint is None) != (self.vocoder_config is None):
            raise ValueError("vocoder_checkpoint and vocoder_config: give both files, or none")
        return self


class FastSpeech2Model(Settings):
    """The sizes of FastSpeech 2."""

    embed_dim: int = Field(default=256, ge=2, multiple_of=2)
    num_heads: int = Field(default=2, ge=1)
    num_encoder_layers: int = Field(default=4, ge=1)
    num_decoder_layers: int = Field(default=4, ge=1)
    feed_forward_dim: int = Field(default=1024, ge=1)
    kernel_sizes: tuple[int, int] = Field(default=(9, 9), description="of a block's two convolutions")
    predictor_dim: int = Field(default=256, ge=1)
    predictor_kernel_size: int = Field(default=3, ge=1)
    predictor_dropout: float = Field(default=0.5, ge=0, lt=1)
    num_bins: int = Field(default=256, ge=2, description="of pitch, and of energy")
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits_together(self) -> FastSpeech2Model:
        _check_heads(self.embed_dim, self.num_heads)
        _check_odd("kernel_sizes", *self.kernel_sizes)
        _check_odd("predictor_kernel_size", self.predictor_kernel_size)
        return self


class TransformerTTSModel(Settings):
    """The sizes of Transformer-TTS."""

    embed_dim: int = Field(default=512, ge=2, multiple_of=2)
    num_heads: int = Field(default=4, ge=1)
    num_encoder_layers: int = Field(default=6, ge=1)
    num_decoder_layers: int = Field(default=6, ge=1)
    feed_forward_dim: int = Field(default=2048, ge=1)
    num_frames_per_step: int = Field(default=4, ge=1)
    encoder_prenet_layers: int = Field(default=3, ge=1)
    prenet_dim: int = Field(default=256, ge=1)
    postnet_dim: int = Field(default=512, ge=1)
    postnet_layers: int = Field(default=5, ge=2)
    kernel_size: int = Field(default=5, ge=1)
    convolution_dropout: float = Field(default=0.5, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    match_positions: bool = Field(default=False, description="count the text's positions in mean decoder steps")

    @model_validator(mode="after")
    def _fits_together(self) -> TransformerTTSModel:
        _check_heads(self.embed_dim, self.num_heads)
        _check_odd("kernel_size", self.kernel_size)
        return self


class FastSpeech2Settings(Settings):
    """All settings of ``fastspeech2``."""

    data: DataSettings = DataSettings()
    model: FastSpeech2Model = FastSpeech2Model()
    eval: EvalSettings = EvalSettings()


class TransformerTTSSettings(Settings):
    """All settings of ``transformer_tts``."""

    data: DataSettings = DataSettings()
    model: TransformerTTSModel = TransformerTTSModel()
    eval: EvalSettings = EvalSettings()

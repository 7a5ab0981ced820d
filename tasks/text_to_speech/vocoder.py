"""Vocoders, from log-mel spectrogram to waveform: Griffin-Lim, or a HiFi-GAN generator from its files."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from benchmark.settings import Settings
from tasks.text_to_speech.audio import F_MAX, HOP, LEAST_FRAMES, N_FFT, NUM_MELS, SAMPLE_RATE, at_least, griffin_lim

SLOPE = 0.1  # of the leaky ReLUs


class Vocoder(Protocol):
    """From a log-mel spectrogram to a waveform."""

    @property
    def key(self) -> str:
        """Names the vocoder and everything that its sound depends on, for caches and records."""
        ...

    def __call__(self, mel: Tensor) -> Tensor:
        """mel: (frames, NUM_MELS), natural logarithm.  Returns (samples,) on the CPU."""
        ...


class GriffinLim:
    """Griffin-Lim as published, without momentum; a fixed seed draws the phases that it starts from."""

    def __init__(self, num_iterations: int) -> None:
        self.num_iterations = num_iterations

    @property
    def key(self) -> str:
        """Name and number of iterations."""
        return f"griffin-lim, {self.num_iterations} iterations"

    def __call__(self, mel: Tensor) -> Tensor:
        """mel: (frames, NUM_MELS), natural logarithm.  Returns (samples,) on the CPU."""
        return griffin_lim(mel, self.num_iterations)


class HifiGanSettings(Settings):
    """The part of a generator's ``config.json`` that says how it is built and which spectrogram it reads."""

    resblock: str = Field(pattern="^[12]$")
    upsample_rates: list[int] = Field(min_length=1)
    upsample_kernel_sizes: list[int]
    upsample_initial_channel: int = Field(ge=2)
    resblock_kernel_sizes: list[int] = Field(min_length=1)
    resblock_dilation_sizes: list[list[int]]
    num_mels: int
    n_fft: int
    hop_size: int
    sampling_rate: int
    fmax: float | None

    model_config = Settings.model_config | {"extra": "ignore"}  # the file has settings of the training too


class HifiGanGenerator(nn.Module):
    """The generator of HiFi-GAN (Kong et al., 2020, arXiv 2010.05646); its parameters have the names of the checkpoints."""

    def __init__(self, config: HifiGanSettings) -> None:
        super().__init__()
        channels = config.upsample_initial_channel
        self.conv_pre = weight_norm(nn.Conv1d(config.num_mels, channels, 7, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.num_kernels = len(config.resblock_kernel_sizes)
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(weight_norm(up))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(channels, size, dilations, paired=config.resblock == "1"))
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (batch, num_mels, frames).  Returns (batch, samples)."""
        x = self.conv_pre(mel)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = self.resblocks[stage * self.num_kernels : (stage + 1) * self.num_kernels]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return self.conv_post(F.leaky_relu(x)).tanh()[:, 0]  # the last slope is torch's default, as published


class ResidualBlock(nn.Module):
    """Dilated convolutions, each added to its input.

    paired  True: one without dilation follows each (resblock "1")
    """

    def __init__(self, channels: int, kernel: int, dilations: list[int], *, paired: bool) -> None:
        super().__init__()
        self.paired = paired
        dilated = [_convolution(channels, kernel, dilation) for dilation in dilations]
        if paired:
            self.convs1 = nn.ModuleList(dilated)
            self.convs2 = nn.ModuleList([_convolution(channels, kernel, 1) for _ in dilations])
        else:
            self.convs = nn.ModuleList(dilated)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) -> (batch, channels, samples)"""
        if not self.paired:
            for convolution in self.convs:
                x = x + convolution(F.leaky_relu(x, SLOPE))
            return x
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


def _convolution(channels: int, kernel: int, dilation: int) -> nn.Module:
    padding = dilation * (kernel - 1) // 2
    return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))


class HifiGan:
    """A trained generator of HiFi-GAN.

    Raises ValueError with one line for files that can't be read or don't fit each other, and for a generator whose
    configuration states another kind of spectrogram than ours.
    """

    def __init__(self, checkpoint: Path, config: Path) -> None:
        content = _read(config)
        try:
            settings = HifiGanSettings.model_validate(json.loads(content))
        except (ValidationError, ValueError, RecursionError) as error:
            raise ValueError(f"{config.name}: not the config.json of a HiFi-GAN generator ({_first(error)})") from None
        for key, ours in (
            ("num_mels", NUM_MELS),
            ("n_fft", N_FFT),
            ("hop_size", HOP),
            ("sampling_rate", SAMPLE_RATE),
            ("fmax", F_MAX),
        ):
            if (found := getattr(settings, key)) != ours:
                raise ValueError(f"{config.name}: {key} {found}, the spectrograms here have {ours}")
        self.generator = HifiGanGenerator(settings).eval().requires_grad_(False)
        weights = _weights(checkpoint)
        try:
            self.generator.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{checkpoint.name}: doesn't fit {config.name}: {_first(error)}") from None
        for module in self.generator.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        self.digest = hashlib.sha256(_read(checkpoint) + content).hexdigest()

    @property
    def key(self) -> str:
        """Name and digest of both files."""
        return f"hifi-gan {self.digest[:16]}"

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> Tensor:
        """mel: (frames, NUM_MELS), natural logarithm.  Returns (samples,) on the CPU."""
        return self.generator(at_least(mel.detach().float().cpu(), LEAST_FRAMES).mT[None])[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: can't be read ({error.strerror})") from None


def _weights(path: Path) -> dict[str, Tensor]:
    """The generator's tensors, with torch's present names of weight norm.  Only tensors are unpickled."""
    _read(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        weights = content.get("generator", content)
        assert all(isinstance(value, Tensor) for value in weights.values())
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, AssertionError, ValueError) as error:
        reason = _first(error) or "it holds other things than tensors"
        raise ValueError(f"{path.name}: not a checkpoint of a HiFi-GAN generator ({reason})") from None
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {}
    for key, value in weights.items():
        module, _, last = key.rpartition(".")
        renamed[f"{module}.{names.get(last, last)}"] = value
    return renamed


def _first(error: Exception) -> str:
    """The beginning of a long message, on one line."""
    return " ".join(str(error).split())[:120]

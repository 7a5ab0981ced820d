"""Text to speech, as the engine calls it: FastSpeech 2 and Transformer-TTS on log-mel spectrograms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.interface import AttentionFactory, Columns, LossSum, Metric, Splits, mean_of
from tasks.text_to_speech import shown
from tasks.text_to_speech.audio import NUM_MELS, SAMPLE_RATE
from tasks.text_to_speech.data import LONGER, Speech, load_speech, shortest, vocoded
from tasks.text_to_speech.fastspeech2 import FastSpeech2, Scale, Truth
from tasks.text_to_speech.layers import mean_by_row, padding_mask
from tasks.text_to_speech.metrics import Cepstra, cepstra, mcd_frames, root_mean_square, warp
from tasks.text_to_speech.settings import FastSpeech2Settings, TransformerTTSSettings
from tasks.text_to_speech.text import Vocabulary
from tasks.text_to_speech.transformer_tts import TransformerTTS
from tasks.text_to_speech.utterances import Utterance, load_arrays, save_arrays
from tasks.text_to_speech.vocoder import GriffinLim, HifiGan, Vocoder

STOP_WEIGHT = 5.0  # of the one step that stops, as published


class SpeechBatch(NamedTuple):
    """Utterances, padded with zeros."""

    symbols: Tensor  # (b, m) int64
    num_symbols: Tensor  # (b,) int64
    mel: Tensor  # (b, n, NUM_MELS) float32, standardised
    num_frames: Tensor  # (b,) int64
    pitch: Tensor  # (b, n) float32, Hz
    energy: Tensor  # (b, n) float32
    durations: Tensor  # (b, m) int64, zeros where the aligner finds them
    numbers: Tensor  # (b,) int64: of the utterance among all of the data, which also seeds its prenet's dropout


class Synthesis(NamedTuple):
    """What a model makes of a text."""

    mel: Tensor  # (frames, NUM_MELS), natural logarithm, not standardised, on the CPU
    stopped: bool  # False where the bound of the length ended it


def _per_frame(cost: str, card: str) -> Metric:
    """A ratio of sums, as the predecessor benchmark has it."""
    return Metric(
        "",
        False,
        lambda columns: float(columns[cost].sum() / columns["synthesised_frames"].sum()),
        lambda columns: len(columns[cost]),
        card,
    )


class TextToSpeech:
    """The task; data are loaded once, by ``load_data``."""

    name = "text_to_speech"
    version = 1
    backbones = {
        "fastspeech2": ("noncausal_self",),
        "transformer_tts": ("noncausal_self", "causal_self", "causal_cross"),
    }
    settings = {"fastspeech2": FastSpeech2Settings, "transformer_tts": TransformerTTSSettings}
    metrics = {
        "mcd": _per_frame(
            "mcd_cost",
            "root mean square over 13 MFCCs with c0 (not dB) against the re-synthesised truth, summed along the cheapest "
            "alignments / synthesised frames",
        ),
        "msd": _per_frame(
            "msd_cost",
            "root mean square over 80 log-mel values against the re-synthesised truth, summed along the cheapest alignments "
            "/ synthesised frames",
        ),
        "mcd_db": mean_of(
            "mcd_db",
            unit="dB",
            card="10 sqrt(2) / ln 10 times the distance of c1 to c13 from the recording, mean over the aligned path, then "
            "over utterances",
        ),
        "mel_l1": mean_of(
            "mel_l1",
            unit="",
            card="absolute error of the standardised log-mel frames with the truth's durations or previous frames given, "
            "mean over frames and bands, then over utterances",
        ),
        "duration_error": mean_of(
            "duration_error", unit="%", card="|synthesised - reference frames| / reference frames, mean over utterances"
        ),
        "unstopped": Metric(
            "utterances",
            False,
            lambda columns: float(columns["unstopped"].sum()),
            lambda columns: len(columns["unstopped"]),
            "number of utterances that the bound of the length had to end",
        ),
    }
    selection = "mcd"
    floors = ("vocoded_truth",)  # true mel through the same vocoder: no rule, but the best that can be had

    def __init__(self, settings: Any, *, backbone: str) -> None:
        if backbone not in self.backbones:
            raise ValueError(f"backbone {backbone!r}: text_to_speech has {', '.join(self.backbones)}")
        self.options, self.backbone = settings, backbone
        self.speech: Speech

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """Embedded speech, or recordings from ``tts/`` of the root."""
        self.cache, self.vocoders = cache, self._vocoders()
        self.speech = speech = load_speech(self.options.data, data_root, cache, self.vocoders)
        train, validation, test = speech.parts
        self.vocabulary = Vocabulary(utterance.symbols for utterance in train)
        frames = torch.cat([utterance.mel for utterance in train]).double()
        self.mean, self.deviation = frames.mean(0).float(), frames.std(0).clamp_min(1e-3).float()
        everyone = [*train, *validation, *test]
        self.numbers = {utterance.name: number for number, utterance in enumerate(everyone)}
        self.everyone = everyone
        # So much slower than the slowest training utterance speaks no one: there synthesis is stopped.
        self.most_frames_per_symbol = LONGER * max(len(u.mel) / len(u.symbols) for u in train)
        self.test_names = {utterance.name for utterance in test}
        unknown = sum(symbol not in self.vocabulary.symbols for u in everyone[len(train) :] for symbol in u.symbols)
        details = {
            **speech.details,
            "symbols": len(self.vocabulary),
            "unknown_symbols": unknown,
            "vocoder": {part: vocoder.key for part, vocoder in zip(("validation", "test"), self.vocoders, strict=True)},
            "max_frames": speech.max_frames,
            "positions": "sinusoidal, times a learned factor, whatever the attention",
        }
        # Another generator is other data to compare with: its files' digest belongs to the fingerprint.
        fingerprint = speech.fingerprint
        if isinstance(self.vocoders[1], HifiGan):
            fingerprint = hashlib.sha256(f"{fingerprint} {self.vocoders[1].key}".encode()).hexdigest()
        self.splits = Splits(train, validation, test, speech.name, fingerprint, speech.embedded, details)
        return self.splits

    def _vocoders(self) -> tuple[Vocoder, Vocoder]:
        """Of validation and of test."""
        options = self.options.eval
        if options.vocoder_checkpoint is not None:
            vocoder = HifiGan(Path(options.vocoder_checkpoint), Path(options.vocoder_config))
            return vocoder, vocoder
        return GriffinLim(options.selection_iterations), GriffinLim(options.griffin_lim_iterations)

    def collate(self, examples: Sequence[Utterance]) -> SpeechBatch:
        def pad(rows: list[Tensor]) -> Tensor:
            return nn.utils.rnn.pad_sequence(rows, batch_first=True)

        symbols = [torch.tensor(self.vocabulary.encode(utterance.symbols)) for utterance in examples]
        durations = [
            u.durations if len(u.durations) else torch.zeros(len(u.symbols), dtype=torch.int64) for u in examples
        ]
        return SpeechBatch(
            pad(symbols),
            torch.tensor([len(row) for row in symbols]),
            pad([(utterance.mel - self.mean) / self.deviation for utterance in examples]),
            torch.tensor([len(utterance.mel) for utterance in examples]),
            pad([utterance.pitch for utterance in examples]),
            pad([utterance.energy for utterance in examples]),
            pad(durations),
            torch.tensor([self.numbers[utterance.name] for utterance in examples]),
        )

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """The backbone for the symbols and lengths of the data."""
        sizes = self.options.model.model_dump()
        lengths: dict[str, Any] = {"max_symbols": self.speech.max_symbols, "max_frames": self.speech.max_frames}
        if self.backbone == "fastspeech2":
            train = self.speech.parts[0]
            return FastSpeech2(
                len(self.vocabulary),
                NUM_MELS,
                attention_for=attention_for,
                pitch=_scale([utterance.pitch for utterance in train]),
                energy=_scale([utterance.energy for utterance in train]),
                with_aligner=not self.speech.aligned,
                **lengths,
                **sizes,
            )
        if sizes.pop("match_positions"):
            sizes |= {"source_rate": self._steps_per_symbol(), "diagonal_start": True}
        return TransformerTTS(len(self.vocabulary), NUM_MELS, attention_for=attention_for, **lengths, **sizes)

    def _steps_per_symbol(self) -> float:
        """Of the training part."""
        train = self.speech.parts[0]
        frames, symbols = (sum(len(x) for x in kind) for kind in zip(*((u.mel, u.symbols) for u in train), strict=True))
        return frames / self.options.model.num_frames_per_step / symbols

    def loss(self, model: nn.Module, batch: SpeechBatch) -> LossSum:
        """Each utterance's own means, summed over utterances, so that no grouping into batches changes anything."""
        by_row = self._taught(model, batch)[0]
        return LossSum(by_row.sum(), len(by_row))

    def tokens(self, batch: SpeechBatch) -> int:
        """Frames."""
        return int(batch.num_frames.sum())

    def _taught(self, model: nn.Module, batch: SpeechBatch, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss, and absolute error of the final frames, by utterance.  (b,), (b,)"""
        if self.backbone == "fastspeech2":
            return _fastspeech2_loss(model, batch)
        return _transformer_tts_loss(model, batch, seeds)

    def synthesise(self, model: nn.Module, batch: SpeechBatch) -> list[Synthesis]:
        """From text alone, one entry a row.

        FastSpeech 2 takes each text by itself: of a batch the last bit of a frame depends on its neighbours, and
        Griffin-Lim makes much of little where there is silence.  Transformer-TTS has as many passes as steps, and takes
        the batch together.
        """
        mean, deviation = self.mean.to(batch.mel.device), self.deviation.to(batch.mel.device)
        if self.backbone == "fastspeech2":
            lengths = zip(batch.symbols, batch.num_symbols, strict=True)
            spoken = [model(row[None, : int(length)], length[None]) for row, length in lengths]
            rows = [(one.mel[0], bool(one.stopped[0])) for one in spoken]
        else:
            most_frames = (batch.num_symbols * self.most_frames_per_symbol).ceil().long()
            made = model.generate(batch.symbols, batch.num_symbols, batch.numbers, most_frames)  # type: ignore[operator]
            ends = zip(made.mel, made.num_frames.tolist(), made.stopped.tolist(), strict=True)
            rows = [(mel[:count], stopped) for mel, count, stopped in ends]
        return [Synthesis((mel.float() * deviation + mean).cpu(), stopped) for mel, stopped in rows]

    def score(self, model: nn.Module, batch: SpeechBatch) -> Mapping[str, Tensor]:
        """Full synthesis, and beside it the error with the truth given."""
        made = self.synthesise(model, batch)
        named = zip(batch.numbers.tolist(), made, strict=True)
        rows = [self._distortions(self.everyone[number], one.mel) for number, one in named]
        columns = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
        columns["mel_l1"] = self._taught(model, batch, batch.numbers)[1].double()
        columns["unstopped"] = torch.tensor([not one.stopped for one in made], dtype=torch.float64)
        return columns

    def _distortions(self, utterance: Utterance, mel: Tensor) -> dict[str, float]:
        """Of one synthesised spectrogram.  mel: (frames, NUM_MELS), natural logarithm."""
        vocoder = self.vocoders[utterance.name in self.test_names]
        return self._compare(utterance, cepstra(vocoder(mel), SAMPLE_RATE), len(mel))

    def _compare(self, utterance: Utterance, found: Cepstra, num_frames: int) -> dict[str, float]:
        """The columns of one waveform, given by its cepstra."""
        reference = self.speech.references[utterance.name]
        mcd = warp(root_mean_square(reference.vocoded.mfcc, found.mfcc))
        msd = warp(root_mean_square(reference.vocoded.log_mel, found.log_mel))
        return {
            "mcd_cost": mcd.cost,
            "msd_cost": msd.cost,
            "synthesised_frames": mcd.num_synthesised,
            "reference_frames": mcd.num_reference,
            "mcd_by_reference": mcd.cost / mcd.num_reference,
            "mcd_by_step": mcd.cost / mcd.num_steps,
            "mcd_db": mcd_frames(reference.recorded.cepstrum, found.cepstrum),
            "duration_error": 100 * abs(num_frames - len(utterance.mel)) / len(utterance.mel),
        }

    def controls(self) -> Mapping[str, Columns]:
        """``mean_frame`` in the reference's number of frames, and ``vocoded_truth``, the vocoder's floor."""
        path = self.cache / f"tts-{self.speech.key}.{self.vocoders[1].key.replace(' ', '')}.controls.npz"
        rows = load_arrays(path)
        if rows is None:
            found = [self._mean_frame(utterance) for utterance in self.speech.parts[2]]
            rows = {column: np.array([row[column] for row in found]) for column in found[0]}
            save_arrays(path, rows)
        return {"mean_frame": rows, "vocoded_truth": self._vocoded_truth()}

    def _mean_frame(self, utterance: Utterance) -> dict[str, float]:
        mel = self.mean.expand_as(utterance.mel)
        error = float(((mel - utterance.mel) / self.deviation).abs().mean())
        return self._distortions(utterance, mel) | {"mel_l1": error, "unstopped": 0.0}

    def _vocoded_truth(self) -> Columns:
        """Its sound is what the references of mcd and msd are made of, so nothing needs the vocoder again."""
        rows = []
        for utterance in self.speech.parts[2]:
            found = self.speech.references[utterance.name].vocoded
            rows.append(self._compare(utterance, found, len(utterance.mel)) | {"mel_l1": 0.0, "unstopped": 0.0})
        return {column: np.array([row[column] for row in rows]) for column in rows[0]}

    def curves(self, model: nn.Module) -> dict[str, Any]:
        """What some test utterances look and sound like."""
        utterances = shortest(self.speech.parts[2], self.options.eval.num_shown)
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        entries = []
        with torch.no_grad():
            for utterance in utterances:
                batch = SpeechBatch(*(x.to(device) for x in self.collate([utterance])))
                mel = self.synthesise(model, batch)[0].mel
                alignment = None
                if self.backbone == "transformer_tts":
                    alignment = shown.cross_alignment(model, partial(self._taught, model, batch, batch.numbers))
                sounds = {
                    "truth": self.speech.sounds[utterance.name],
                    "vocoded_truth": self.speech.sounds[vocoded(utterance.name)],
                    "synthesised": self.vocoders[1](mel),
                }
                entries.append(shown.entry(utterance, mel, sounds, alignment))
        model.train(was_training)
        return {"utterances": entries}


def _scale(values: Sequence[Tensor]) -> Scale:
    """Of ln(x + 1) over all frames of the training part."""
    logs = torch.cat(list(values)).double().log1p()
    mean, deviation = float(logs.mean()), max(float(logs.std()), 1e-3)  # a constant pitch still has bins
    return Scale(mean, deviation, (float(logs.min()) - mean) / deviation, (float(logs.max()) - mean) / deviation + 1e-3)


def _fastspeech2_loss(model: Any, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """L1 of the frames, squared errors of ln(duration + 1), pitch and energy, and the aligner's, each a mean."""
    truth = Truth(batch.mel, batch.num_frames, batch.pitch, batch.energy, batch.durations)
    spoken, targets = model.teach(batch.symbols, batch.num_symbols, truth)
    no_symbol = padding_mask(batch.num_symbols, batch.symbols.shape[1])
    no_frame = padding_mask(batch.num_frames, batch.mel.shape[1])
    error = mean_by_row((spoken.mel.float() - batch.mel).abs(), no_frame)
    loss = error
    for found, wanted in (
        (spoken.log_durations, targets.durations.float().log1p()),
        (spoken.pitch, targets.pitch),
        (spoken.energy, targets.energy),
    ):
        loss = loss + mean_by_row((found.float() - wanted).square(), no_symbol)
    return (loss if targets.alignment is None else loss + targets.alignment), error


def _transformer_tts_loss(model: Any, batch: SpeechBatch, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
    """L1 and squared error before and after the postnet, and the stop flag's cross-entropy, each a mean."""
    taught = model(batch.symbols, batch.num_symbols, batch.mel, batch.num_frames, seeds)
    no_frame = padding_mask(batch.num_frames, batch.mel.shape[1])
    loss = torch.zeros(len(batch.mel), device=batch.mel.device)
    for found in (taught.before, taught.after):
        difference = found.float() - batch.mel
        loss = loss + mean_by_row(difference.abs() + difference.square(), no_frame)
    error = mean_by_row((taught.after.float() - batch.mel).abs(), no_frame)
    num_steps = -(-batch.num_frames // model.num_frames_per_step)
    steps = torch.arange(taught.stop.shape[1], device=batch.mel.device)
    stops = (steps == num_steps[:, None] - 1).float()
    weight = torch.tensor(STOP_WEIGHT, device=batch.mel.device)
    nats = nn.functional.binary_cross_entropy_with_logits(
        taught.stop.float(), stops, pos_weight=weight, reduction="none"
    )
    return loss + mean_by_row(nats, steps >= num_steps[:, None]), error

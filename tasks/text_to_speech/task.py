"""Text to speech, as the engine calls it: FastSpeech 2 and Transformer-TTS on log-mel spectrograms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import AttentionFactory, Columns, LossSum, Metric, Splits, Sums, mean_of, ratio_of, with_ones
from tasks.text_to_speech import ljspeech, shown
from tasks.text_to_speech.audio import NUM_MELS, SAMPLE_RATE
from tasks.text_to_speech.backbone import Backbone, SpeechBatch, Synthesis
from tasks.text_to_speech.data import LONGER, Speech, load_speech, shortest, vocoded
from tasks.text_to_speech.fastspeech2 import FastSpeech2, Scale
from tasks.text_to_speech.metrics import Cepstra, cepstra, mcd_frames, root_mean_square, warp
from tasks.text_to_speech.settings import FastSpeech2Settings, TransformerTTSSettings
from tasks.text_to_speech.text import Vocabulary
from tasks.text_to_speech.transformer_tts import TransformerTTS
from tasks.text_to_speech.utterances import Utterance, load_arrays, save_arrays
from tasks.text_to_speech.vocoder import GriffinLim, HifiGan, Vocoder


def _per_frame(cost: str, card: str) -> Metric:
    """A ratio of sums over utterances, as in the predecessor benchmark."""
    return Metric(
        "",
        False,
        lambda columns: float(columns[cost].sum() / columns["synthesised_frames"].sum()),
        lambda columns: len(columns[cost]),
        card,
        ratio_of(cost, "synthesised_frames"),
    )


class TextToSpeech:
    """Speech from text alone, measured against recordings (PROTOCOL.md)."""

    name = "text_to_speech"
    version = 3
    backbones = {
        "fastspeech2": ("noncausal_self",),
        "transformer_tts": ("noncausal_self", "causal_self", "causal_cross"),
    }
    streams = {"transformer_tts": ("causal_self", "causal_cross")}
    settings_of = {
        "fastspeech2": FastSpeech2Settings,
        "transformer_tts": TransformerTTSSettings,
    }
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
        "loss": mean_of(
            "loss",
            unit="",
            card="the loss that training minimises, with the truth's durations or previous frames given, mean over utterances",
        ),
        "duration_error": mean_of(
            "duration_error", unit="%", card="|synthesised - reference frames| / reference frames, mean over utterances"
        ),
        "unstopped": Metric(
            "utterances",
            False,
            lambda columns: float(columns["unstopped"].sum()),
            lambda columns: len(columns["unstopped"]),
            "number of utterances that only a bound on the length ended",
            Sums(lambda columns: with_ones(columns["unstopped"]), lambda sums: sums[..., 0]),
        ),
    }
    selection = "loss"
    floors = ("vocoded_truth",)  # the true spectrogram through the same vocoder: the best possible result, not a rule

    def __init__(self, settings: Any, *, backbone: str) -> None:
        if backbone not in self.backbones:
            raise ValueError(f"backbone {backbone!r}: text_to_speech has {', '.join(self.backbones)}")
        self.settings, self.backbone = settings, backbone
        self.speech: Speech

    def sources(self, data_root: Path) -> Collection[str]:
        """The folder of LJSpeech, if these settings need it and it isn't there."""
        needed = ljspeech.needs_archive(data_root, self.settings.data.folder)
        return {f"tts/{ljspeech.FULL}"} if needed else ()

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """Recordings from ``tts/`` of ``data_root`` or, without one, embedded speech; ``cache`` keeps what was measured.

        Raises ValueError with one line for data, or files of a vocoder, that can't be used.
        """
        self.cache, self.vocoder = cache, self._vocoder()
        self.speech = speech = load_speech(self.settings.data, data_root, cache, self.vocoder)
        train, validation, test = speech.parts
        test = self.as_test(test)
        self.vocabulary = Vocabulary(utterance.symbols for utterance in train)
        frames = torch.cat([utterance.mel for utterance in train]).double()
        self.mean, self.deviation = frames.mean(0).float(), frames.std(0).clamp_min(1e-3).float()
        everyone = [*train, *validation, *test]
        self.numbers = {utterance.name: number for number, utterance in enumerate(everyone)}
        self.everyone = everyone
        unknown = sum(symbol not in self.vocabulary.symbols for u in everyone[len(train) :] for symbol in u.symbols)
        details = {
            **speech.details,
            "symbols": len(self.vocabulary),
            "unknown_symbols": unknown,
            "vocoder": self.vocoder.key,
            "max_frames": speech.max_frames,
            "positions": "sinusoidal, times a learned factor, whatever the attention",
        }
        # A generator changes the references that speech is compared with, so the fingerprint covers its files.
        fingerprint = speech.fingerprint
        if isinstance(self.vocoder, HifiGan):
            fingerprint = hashlib.sha256(f"{fingerprint} {self.vocoder.key}".encode()).hexdigest()
        self.splits = Splits(train, validation, test, speech.name, fingerprint, speech.embedded, details)
        return self.splits

    def _vocoder(self) -> Vocoder:
        options = self.settings.eval
        if options.vocoder_checkpoint is not None:
            return HifiGan(Path(options.vocoder_checkpoint), Path(options.vocoder_config))
        return GriffinLim(options.griffin_lim_iterations)

    def collate(self, examples: Sequence[Utterance]) -> SpeechBatch:
        """A batch of utterances, padded to the longest text and the longest sound; frames are standardised."""

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
            all(utterance.is_test for utterance in examples),
        )

    def build_model(self, attention_for: AttentionFactory) -> Any:
        """The backbone for the symbols and lengths of the data: a ``Backbone``."""
        build = _BUILDERS[self.backbone]
        return build(self.speech, len(self.vocabulary), self.settings.model.model_dump(), attention_for)

    def loss(self, model: Backbone, batch: SpeechBatch) -> LossSum:
        """Each utterance's own mean loss, summed over utterances, so that no grouping into batches changes anything."""
        by_row = model.teaching_loss(batch).loss
        return LossSum(by_row.sum(), len(by_row))

    def tokens(self, batch: SpeechBatch) -> int:
        """The number of frames that a batch trains on; the engine reports it per second."""
        return int(batch.num_frames.sum())

    def synthesise(self, model: Backbone, batch: SpeechBatch) -> list[Synthesis]:
        """The speech of each text of the batch, from the text alone: natural logarithm, not standardised, on the CPU."""
        mean, deviation = self.mean.to(batch.mel.device), self.deviation.to(batch.mel.device)
        return [Synthesis((mel.float() * deviation + mean).cpu(), stopped) for mel, stopped in model.synthesise(batch)]

    def score(self, model: Backbone, batch: SpeechBatch) -> Mapping[str, Tensor]:
        """The error of each text's frames with the truth given; for test utterances also the distortions of their synthesis."""
        taught = model.teaching_loss(batch, batch.numbers)
        columns = {"mel_l1": taught.mel_error.double(), "loss": taught.loss.double()}
        if batch.is_test:
            made = self.synthesise(model, batch)
            named = zip(batch.numbers.tolist(), made, strict=True)
            rows = [self._distortions(self.everyone[number], one.mel) for number, one in named]
            columns |= {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
            columns["unstopped"] = torch.tensor([not one.stopped for one in made], dtype=torch.float64)
        return columns

    def as_test(self, part: Sequence[Utterance]) -> list[Utterance]:
        """The same utterances with synthesis: see ``ScoresTestInFull``."""
        return [utterance._replace(is_test=True) for utterance in part]

    def _distortions(self, utterance: Utterance, mel: Tensor) -> dict[str, float]:
        """The columns of one spectrogram.  mel: (frames, NUM_MELS), natural logarithm."""
        return self._compare(utterance, cepstra(self.vocoder(mel), SAMPLE_RATE), len(mel))

    def _compare(self, utterance: Utterance, found: Cepstra, num_frames: int) -> dict[str, float]:
        """The columns of one waveform, given by its cepstra.  num_frames: of its spectrogram."""
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
        """``mean_frame``, repeated as often as the reference has frames, and ``vocoded_truth``, the vocoder's own error.

        Neither has a training loss, so that column is NaN.
        """
        path = self.cache / f"tts-{self.speech.key}.{self.vocoder.key.replace(' ', '')}.controls.npz"
        rows = load_arrays(path)
        if rows is None:
            found = [self._mean_frame(utterance) for utterance in self.speech.parts[2]]
            rows = {column: np.array([row[column] for row in found]) for column in found[0]}
            save_arrays(path, rows)
        unknown = {"loss": np.full(len(self.speech.parts[2]), np.nan)}
        return {"mean_frame": {**rows, **unknown}, "vocoded_truth": {**self._vocoded_truth(), **unknown}}

    def _mean_frame(self, utterance: Utterance) -> dict[str, float]:
        mel = self.mean.expand_as(utterance.mel)
        error = float(((mel - utterance.mel) / self.deviation).abs().mean())
        return self._distortions(utterance, mel) | {"mel_l1": error, "unstopped": 0.0}

    def _vocoded_truth(self) -> Columns:
        """The references of mcd and msd are made from the same sound, so the vocoder need not run again."""
        rows = []
        for utterance in self.speech.parts[2]:
            found = self.speech.references[utterance.name].vocoded
            rows.append(self._compare(utterance, found, len(utterance.mel)) | {"mel_l1": 0.0, "unstopped": 0.0})
        return {column: np.array([row[column] for row in rows]) for column in rows[0]}

    def curves(self, model: Any) -> dict[str, Any]:
        """For the report: pictures and sounds of some test utterances.  model: a ``Backbone``."""
        utterances = shortest(self.speech.parts[2], self.settings.eval.num_shown)
        device = next(model.parameters()).device
        entries = []
        with evaluating(model):
            for utterance in utterances:
                batch = self.collate([utterance]).to(device)
                mel = self.synthesise(model, batch)[0].mel
                alignment = None
                if model.has_alignment:
                    alignment = shown.cross_alignment(model, partial(model.teaching_loss, batch, batch.numbers))
                sounds = {
                    "truth": self.speech.sounds[utterance.name],
                    "vocoded_truth": self.speech.sounds[vocoded(utterance.name)],
                    "synthesised": self.vocoder(mel),
                }
                entries.append(shown.entry(utterance, mel, sounds, alignment))
        return {"utterances": entries}


def _fastspeech2(
    speech: Speech, num_symbols: int, sizes: dict[str, Any], attention_for: AttentionFactory
) -> FastSpeech2:
    train = speech.parts[0]
    return FastSpeech2(
        num_symbols,
        NUM_MELS,
        attention_for=attention_for,
        max_symbols=speech.max_symbols,
        max_frames=speech.max_frames,
        pitch=_scale([utterance.pitch for utterance in train]),
        energy=_scale([utterance.energy for utterance in train]),
        with_aligner=not speech.aligned,
        **sizes,
    )


def _transformer_tts(
    speech: Speech, num_symbols: int, sizes: dict[str, Any], attention_for: AttentionFactory
) -> TransformerTTS:
    train = speech.parts[0]
    if sizes.pop("match_positions"):
        num_frames, total = (
            sum(len(x) for x in kind) for kind in zip(*((u.mel, u.symbols) for u in train), strict=True)
        )
        sizes |= {"source_rate": num_frames / sizes["num_frames_per_step"] / total, "diagonal_start": True}
    return TransformerTTS(
        num_symbols,
        NUM_MELS,
        attention_for=attention_for,
        max_symbols=speech.max_symbols,
        max_frames=speech.max_frames,
        # No one speaks much slower than the slowest training utterance, so longer speech is a stop that was missed.
        max_frames_per_symbol=LONGER * max(len(u.mel) / len(u.symbols) for u in train),
        **sizes,
    )


_BUILDERS: Mapping[str, Callable[..., Backbone]] = {"fastspeech2": _fastspeech2, "transformer_tts": _transformer_tts}


def _scale(values: Sequence[Tensor]) -> Scale:
    """The distribution of ln(x + 1) over all frames of the training part."""
    logs = torch.cat(list(values)).double().log1p()
    mean, deviation = float(logs.mean()), max(float(logs.std()), 1e-3)  # never 0, so that a constant pitch has bins too
    return Scale(mean, deviation, (float(logs.min()) - mean) / deviation, (float(logs.max()) - mean) / deviation + 1e-3)

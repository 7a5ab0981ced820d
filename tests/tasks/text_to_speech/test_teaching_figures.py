"""``mel_l1`` and ``loss`` of the test part, computed again with NumPy for each utterance alone."""

import numpy as np
import pytest
import torch

from benchmark.running.trainer import evaluate, measured_metrics
from tasks.text_to_speech.transformer_tts import STOP_WEIGHT


def numpy(tensor):
    return tensor.detach().double().numpy()


def frames_of(task, utterance):
    """The standardised frames, from the utterance itself."""
    return (numpy(utterance.mel) - numpy(task.mean)) / numpy(task.deviation)


def by_hand_fastspeech2(task, model, utterance):
    batch = task.collate([utterance])
    spoken, _ = model.teach(batch)
    error = np.abs(numpy(spoken.mel[0]) - frames_of(task, utterance)).mean()
    ends = np.cumsum(utterance.durations.numpy())
    loss = error + np.mean((numpy(spoken.log_durations[0]) - np.log1p(utterance.durations.numpy())) ** 2)
    for found, values, embedding in (
        (spoken.pitch, utterance.pitch, model.pitch_embedding),
        (spoken.energy, utterance.energy, model.energy_embedding),
    ):
        parts = np.split(numpy(values), ends[:-1])
        scale = embedding.scale
        wanted = [(np.log1p(part.mean()) - scale.mean) / scale.deviation if len(part) else 0.0 for part in parts]
        loss += np.mean((numpy(found[0]) - np.array(wanted)) ** 2)
    return error, loss


def by_hand_transformer_tts(task, model, utterance):
    batch = task.collate([utterance])
    taught = model(batch.symbols, batch.num_symbols, batch.mel, batch.num_frames, batch.numbers)
    wanted = frames_of(task, utterance)
    error = np.abs(numpy(taught.after[0]) - wanted).mean()
    loss = error + np.mean((numpy(taught.after[0]) - wanted) ** 2)
    before = numpy(taught.before[0]) - wanted
    loss += np.abs(before).mean() + np.mean(before**2)
    p = 1 / (1 + np.exp(-numpy(taught.stop[0])))
    nats = -np.log1p(-p)
    nats[-1] = -STOP_WEIGHT * np.log(p[-1])
    return error, loss + nats.mean()


@pytest.mark.parametrize("backbone", ["fastspeech2", "transformer_tts"])
def test_each_utterance_counts_by_its_definition(make_task, build, backbone):
    task = make_task(backbone)
    model = build(task, "softmax", "noncausal_self").eval()
    test = task.splits.test
    columns = evaluate(task, model, test, batch_size=len(test))
    by_hand = {"fastspeech2": by_hand_fastspeech2, "transformer_tts": by_hand_transformer_tts}[backbone]
    with torch.no_grad():
        errors, losses = zip(*(by_hand(task, model, utterance) for utterance in test), strict=True)
    assert columns["mel_l1"] == pytest.approx(errors, rel=1e-4)
    assert columns["loss"] == pytest.approx(losses, rel=1e-4)
    figures = measured_metrics(task.metrics, columns)
    assert figures["mel_l1"].value == pytest.approx(np.mean(errors), rel=1e-4)
    assert figures["loss"].value == pytest.approx(np.mean(losses), rel=1e-4)
    assert (figures["loss"].n, figures["loss"].higher_is_better) == (len(test), False)


def test_controls_have_no_training_loss(make_task):
    task = make_task("fastspeech2")
    for columns in task.controls().values():
        assert np.isnan(columns["loss"]).all()
    frames = [frames_of(task, utterance) for utterance in task.speech.parts[2]]
    assert task.controls()["mean_frame"]["mel_l1"] == pytest.approx([np.abs(x).mean() for x in frames], rel=1e-5)

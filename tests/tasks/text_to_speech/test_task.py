"""The task as the engine calls it."""

import json

import believable
import numpy as np
import pytest
import torch

from benchmark.interface import PRESETS
from benchmark.multihead import AttentionSites
from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve
from tasks.text_to_speech.backbone import SpeechBatch
from tasks.text_to_speech.exhibits import exhibits
from tasks.text_to_speech.figures import figures
from tasks.text_to_speech.shown import unpack
from tasks.text_to_speech.task import TextToSpeech
from tasks.text_to_speech.vocoder import HifiGan, HifiGanGenerator, HifiGanSettings

BACKBONES = ("fastspeech2", "transformer_tts")
WIDER = {
    "fastspeech2": {"embed_dim": 64, "feed_forward_dim": 128, "num_bins": 64},
    "transformer_tts": {"embed_dim": 64, "feed_forward_dim": 128, "prenet_dim": 128, "postnet_dim": 64},
}


def columns_of(task, model, batch_size):
    model.eval()
    test = task.splits.test
    with torch.no_grad():
        parts = [task.score(model, task.collate(test[i : i + batch_size])) for i in range(0, len(test), batch_size)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_batch_size_changes_a_figure(make_task, build, backbone):
    task = make_task(backbone)
    model = build(task, "softmax", "noncausal_self")
    found = [columns_of(task, model, size) for size in (1, 3, 8)]
    for columns in found[1:]:
        for name, metric in TextToSpeech.metrics.items():
            assert metric.n(columns) == 5
            assert metric.value(columns) == pytest.approx(metric.value(found[0]), rel=1e-5), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_speech_is_synthesised_for_the_test_part_and_for_trials_alone(make_task, build, backbone):
    """Validation chooses a checkpoint by its loss, so training waits for no vocoder."""
    task = make_task(backbone)
    model = build(task, "softmax", "noncausal_self").eval()
    validation = task.splits.validation
    with torch.no_grad():
        brief = task.score(model, task.collate(validation))
        full = task.score(model, task.collate(task.as_test(validation)))
        test = task.score(model, task.collate(task.splits.test))
    assert set(brief) == {"loss", "mel_l1"}
    assert task.selection in brief
    assert set(full) == set(test) > set(brief)
    assert all(torch.equal(full[name], brief[name]) for name in brief)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_does_not_depend_on_the_grouping(make_task, build, backbone):
    task = make_task(backbone)
    model = build(task, "softmax", "noncausal_self").eval()
    train = task.speech.parts[0]
    torch.manual_seed(0)
    with torch.no_grad():
        seeds = torch.arange(6)
        whole = model.teaching_loss(task.collate(train[:6]), seeds).loss
        parts = [model.teaching_loss(task.collate(train[i : i + 2]), seeds[i : i + 2]).loss for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_handful_is_learnt_by_heart(make_task, backbone):
    """The prenet's dropout stays the same at every step here, because otherwise its noise would hide the loss."""
    task = make_task(backbone, model=WIDER[backbone])
    torch.manual_seed(0)
    model = task.build_model(AttentionSites("softmax", "noncausal_self", {}))
    batch = task.collate(task.speech.parts[0][:2])
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, 180)
    losses = []
    for _ in range(180):
        loss = model.teaching_loss(batch, batch.numbers).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0], (losses[0], losses[-1])


def test_the_aligner_learns_durations_where_none_are_given(make_task):
    """Characters have no given durations: the aligner's sum to the frames, and the loss falls."""
    task = make_task("fastspeech2", data={"text": "characters"})
    assert not task.speech.aligned
    torch.manual_seed(0)
    model = task.build_model(AttentionSites("softmax", "noncausal_self", {}))
    batch = task.collate(task.speech.parts[0][:3])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_controls_have_a_row_for_each_test_utterance(make_task):
    task = make_task("fastspeech2")
    controls = task.controls()
    assert set(controls) == {"mean_frame", "vocoded_truth"}
    for columns in controls.values():
        assert all(len(values) == 5 for values in columns.values())
    value = {name: {m: TextToSpeech.metrics[m].value(c) for m in TextToSpeech.metrics} for name, c in controls.items()}
    assert value["vocoded_truth"]["mcd"] == value["vocoded_truth"]["msd"] == 0
    assert 0 < value["vocoded_truth"]["mcd_db"] < value["mean_frame"]["mcd_db"]
    assert value["mean_frame"]["mcd"] > 1
    assert value["mean_frame"]["duration_error"] == 0
    # The floor is computed without the vocoder, and must equal what the vocoder gives.
    utterance = task.speech.parts[2][0]
    found = task._distortions(utterance, utterance.mel)
    for name, wanted in found.items():
        assert controls["vocoded_truth"][name][0] == pytest.approx(wanted, abs=1e-9)
    again = task.controls()
    assert all(np.array_equal(again["mean_frame"][k], v, equal_nan=True) for k, v in controls["mean_frame"].items())


def test_the_ratio_is_of_sums():
    columns = {"mcd_cost": np.array([10.0, 1.0]), "synthesised_frames": np.array([10.0, 100.0])}
    assert TextToSpeech.metrics["mcd"].value(columns) == 0.1


def test_standardising_knows_the_training_part_alone(make_task):
    task = make_task("fastspeech2")
    frames = torch.cat([utterance.mel for utterance in task.speech.parts[0]])
    torch.testing.assert_close(task.mean, frames.mean(0))
    batch = task.collate(task.speech.parts[0])
    real = ~torch.isnan(batch.mel)
    assert real.all()
    assert isinstance(batch, SpeechBatch)


def test_records_show_and_play_what_was_made(make_task, build, tmp_path):
    task = make_task("transformer_tts")
    names = {"backbone": "transformer_tts", "pattern": "causal_cross"}
    records = [
        believable.with_curves(task.curves(build(task, name, "causal_cross")), tmp_path, attention=name, **names)
        for name in ("softmax", "lavo")
    ]
    entry = records[0].curves["utterances"][0]
    shortest = min(task.speech.parts[2], key=lambda u: (len(u.mel), u.name))
    assert entry["name"] == shortest.name
    assert set(entry["sounds"]) == {"truth", "vocoded_truth", "synthesised"}
    weights = unpack(records[0].attachment(entry["alignment"]))
    np.testing.assert_allclose(weights.sum(0), 1, atol=0.1)  # rounded to bytes
    assert records[1].curves["utterances"][0]["alignment"] is None  # a memory has no weights
    made = figures(records)
    assert set(made) == {"spectrograms_transformer_tts_causal_cross", "alignments_transformer_tts_causal_cross"}
    titles = [axis.get_title() for axis in made["spectrograms_transformer_tts_causal_cross"].axes]
    assert titles[:3] == ["truth", "softmax", "lavo"]
    shown = exhibits(records)
    assert len(shown) == 1
    assert shown[0].columns == ("text", "recording", "through the vocoder", "softmax", "lavo")
    row = shown[0].rows[0]
    assert row[0] == shortest.text
    assert {sound.media_type for sound in row[1:]} == {"audio/mpeg"}
    assert len({sound.name for sound in row[1:]}) == 4
    assert figures([]) == {}
    assert exhibits([believable.with_curves({}, **names)]) == []
    # Both cells share the truth: its picture, its sound and that of the vocoder.
    assert sorted(file.suffix for file in (tmp_path / "attachments").iterdir()) == [".mp3"] * 4 + [".png"] * 4
    for file in (tmp_path / "attachments").glob("*.mp3"):
        file.unlink()
    (silent,) = exhibits(records)
    assert set(silent.rows[0][1:]) == {"not published; run the cell to hear it"}


CONFIG = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "sampling_rate": 22050,
    "fmax": 8000,
    "batch_size": 16,
}


def old_names(state):
    """As published checkpoints call weight norm's two parts."""
    return {
        k.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): v
        for k, v in state.items()
    }


def test_a_backbone_without_cross_attention_shows_no_alignment(make_task, build):
    task = make_task("fastspeech2")
    model = build(task, "softmax", "noncausal_self").train()
    curves = task.curves(model)
    assert curves["utterances"][0]["alignment"] is None
    assert model.training


def test_a_hifi_gan_checkpoint_is_loaded_and_used(tmp_path, make_task):
    torch.manual_seed(0)
    generator = HifiGanGenerator(HifiGanSettings.model_validate(CONFIG)).eval()
    torch.save({"generator": old_names(generator.state_dict())}, tmp_path / "g.pt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    vocoder = HifiGan(tmp_path / "g.pt", tmp_path / "config.json")
    mel = torch.randn(7, 80)
    sound = vocoder(mel)
    assert sound.shape == (7 * 256,)
    with torch.no_grad():
        torch.testing.assert_close(sound, generator(mel.mT[None])[0])
    places = {"vocoder_checkpoint": str(tmp_path / "g.pt"), "vocoder_config": str(tmp_path / "config.json")}
    other = make_task("fastspeech2")
    task = make_task("fastspeech2", eval=places)
    assert task.vocoder.key.startswith("hifi-gan")
    assert task.splits.fingerprint != other.splits.fingerprint


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_line(tmp_path):
    generator = HifiGanGenerator(HifiGanSettings.model_validate(CONFIG))
    torch.save({"generator": generator.state_dict()}, tmp_path / "g.pt")
    for change, fault in (
        ({"num_mels": 100}, "num_mels 100, the spectrograms here have 80"),
        ({"upsample_initial_channel": 64}, "doesn't fit"),
        ({"resblock": "3"}, "not the config.json"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
        with pytest.raises(ValueError, match=fault) as caught:
            HifiGan(tmp_path / "g.pt", tmp_path / "config.json")
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "g.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint"):
        HifiGan(tmp_path / "g.pt", tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"none\.pt: can't be read"):
        HifiGan(tmp_path / "none.pt", tmp_path / "config.json")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name, backbone):
    resolved = resolve("tts", backbone, name, AttentionSpec(name="softmax"), [])
    assert resolved.train.batch_size >= 1
    assert backbone in TextToSpeech.backbones


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone 'gpt'"):
        TextToSpeech(None, backbone="gpt")

"""The backbones: padding, lengths, streaming, dropout by row, published sizes."""

import math

import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.text_to_speech.backbone import SpeechBatch
from tasks.text_to_speech.fastspeech2 import mean_by_symbol, regulate_length
from tasks.text_to_speech.layers import ConvolutionStack, MaskedBatchNorm, padding_mask
from tasks.text_to_speech.task import TextToSpeech

ATTENTIONS = ("lavo", "softmax", "flash", "performer", "cosformer")
BACKBONES = ("fastspeech2", "transformer_tts")


def some_batch(task, count=4):
    return task.collate([task.speech.parts[0][index] for index in range(count)])


def test_the_length_regulator_repeats():
    x = torch.arange(8.0).view(2, 4, 1)
    out, num_frames = regulate_length(x, torch.tensor([[2, 0, 1, 1], [0, 1, 0, 0]]))
    assert num_frames.tolist() == [4, 1]
    assert out[0, :, 0].tolist() == [0, 0, 2, 3]
    assert out[1, :, 0].tolist() == [5, 0, 0, 0]


def test_means_by_symbol():
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]])
    assert mean_by_symbol(values, torch.tensor([[2, 0, 3, 0]])).tolist() == [[2.0, 0.0, 7.0, 0.0]]


def test_batch_norm_counts_real_places_only():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4)
    padded = padding_mask(torch.tensor([6, 2, 4]), 6)
    ours, theirs = MaskedBatchNorm(4), torch.nn.BatchNorm1d(4)
    x[padded] = 1e6
    found = ours(x, padded)[~padded]
    torch.testing.assert_close(found, theirs(x[~padded]))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, padded)[~padded], theirs(x[~padded]))


def test_convolutions_take_padding_as_absent():
    torch.manual_seed(0)
    stack = ConvolutionStack([4, 8, 4], 5, 0.0, activation="tanh", last=False).eval()
    x = torch.randn(1, 5, 4)
    longer = torch.cat((x, torch.full((1, 3, 4), 7.0)), 1)
    alone = stack(x, padding_mask(torch.tensor([5]), 5))
    together = stack(longer, padding_mask(torch.tensor([5]), 8))
    torch.testing.assert_close(together[:, :5], alone)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_stands_in_padding_changes_nothing(make_task, build, backbone, attention):
    task = make_task(backbone, data={"max_symbols": 60, "max_frames": 400})
    model = build(task, attention, "noncausal_self").eval()
    batch = some_batch(task, 3)
    number = int(batch.num_frames.argmin())
    alone = task.collate([task.speech.parts[0][number]])
    wider = [torch.nn.functional.pad(x, (0, 0, 0, 5)) if x.dim() == 3 else x for x in batch[:-1]]
    wider = SpeechBatch(*(torch.nn.functional.pad(x, (0, 5)) if x.dim() == 2 else x for x in wider), batch.is_test)
    with torch.no_grad():
        for other in (batch, wider):
            for one, many in zip(
                model.teaching_loss(alone, alone.numbers), model.teaching_loss(other, other.numbers), strict=True
            ):
                torch.testing.assert_close(many[number], one[0], atol=1e-5, rtol=1e-4)
            short, long = task.synthesise(model, alone)[0], task.synthesise(model, other)[number]
            assert short.stopped == long.stopped
            torch.testing.assert_close(long.mel, short.mel, atol=1e-4, rtol=1e-4)
            if backbone == "fastspeech2":  # synthesis takes rows one by one; the model itself takes batches too
                spoken = model(other.symbols, other.num_symbols)
                wanted = model(alone.symbols, alone.num_symbols)
                count = int(wanted.num_frames[0])
                assert int(spoken.num_frames[number]) == count
                torch.testing.assert_close(spoken.mel[number, :count], wanted.mel[0, :count], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self", "causal_cross"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_streamed_is_teacher_forced(make_task, build, attention, pattern):
    """What generation said, given as the truth, is said again."""
    task = make_task("transformer_tts")
    model = build(task, attention, pattern).eval()
    batch = some_batch(task, 3)
    with torch.no_grad():
        torch.nn.init.constant_(model.stop_projection.bias, -100.0)
        # The feedback is what stood before the postnet: with the postnet silent it is the output.
        model.postnet.norms[-1].weight.zero_(), model.postnet.norms[-1].bias.zero_()
        generated = model.generate(batch.symbols, batch.num_symbols, batch.numbers)
        assert generated.mel.shape[1] == 4 * model.max_steps > 100
        taught = model(batch.symbols, batch.num_symbols, generated.mel, generated.num_frames, batch.numbers)
    torch.testing.assert_close(taught.after, generated.mel, atol=2e-4, rtol=1e-3)


def test_dropout_at_test_belongs_to_the_utterance(make_task, build):
    task = make_task("transformer_tts")
    prenet = build(task).prenet
    draws = prenet.draws(torch.tensor([3, 5, 3]), 10)
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert 0.4 < float(draws.float().mean()) < 0.6


def test_generation_always_ends_and_has_a_frame(make_task, build):
    for bias, steps in ((-100.0, None), (100.0, 1)):
        task = make_task("transformer_tts", data={"max_frames": 200})
        model = build(task).eval()
        torch.nn.init.constant_(model.stop_projection.bias, bias)
        batch = some_batch(task, 2)
        generated = model.generate(batch.symbols, batch.num_symbols, batch.numbers)
        wanted = 4 * (steps or model.max_steps)
        assert generated.num_frames.tolist() == [wanted, wanted]
        assert generated.stopped.tolist() == [bool(steps)] * 2
    task = make_task("fastspeech2", data={"max_frames": 200})
    model = build(task, "softmax", "noncausal_self").eval()
    for bias, frames in ((-50.0, 1), (8.0, 200)):
        torch.nn.init.constant_(model.duration_predictor.projection.bias, bias)
        spoken = model(batch.symbols, batch.num_symbols)
        assert spoken.num_frames.tolist() == [frames, frames]
        assert spoken.stopped.tolist() == [frames == 1] * 2


def test_synthesis_ends_at_the_slowest_rate_of_training(make_task, build):
    """A stop that never comes costs 1.25 times the most frames for a symbol of the training part, in whole groups."""
    task = make_task("transformer_tts")
    model = build(task).eval()
    torch.nn.init.constant_(model.stop_projection.bias, -100.0)
    batch = some_batch(task, 3)
    slowest = max(len(utterance.mel) / len(utterance.symbols) for utterance in task.speech.parts[0])
    for spoken, num_symbols in zip(task.synthesise(model, batch), batch.num_symbols.tolist(), strict=True):
        bound = 4 * math.ceil(math.ceil(1.25 * slowest * num_symbols) / 4)
        assert (len(spoken.mel), spoken.stopped) == (min(bound, 4 * model.max_steps), False)


def paper(backbone, tmp_path):
    """The task with the paper preset's model on a few embedded utterances."""
    from benchmark.settings.models import AttentionSpec
    from benchmark.settings.resolve import resolve

    settings = resolve("tts", backbone, "paper", AttentionSpec(name="softmax"), []).settings
    small = settings.data.model_copy(
        update={
            "num_train": 8,
            "num_validation": 1,
            "num_test": 1,
            "long": False,
            "max_frames": 900,
            "max_symbols": 200,
        }
    )
    task = TextToSpeech(settings.model_copy(update={"data": small}), backbone=backbone)
    task.load_data(None, tmp_path)
    return task


@pytest.mark.parametrize(("backbone", "published"), [("fastspeech2", 41), ("transformer_tts", 54)])
def test_the_paper_preset_has_the_published_size(backbone, published, tmp_path):
    task = paper(backbone, tmp_path)
    with torch.device("meta"):
        model = task.build_model(AttentionSites("softmax", "noncausal_self", {}))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6) == published, count


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_full_size_step_is_taken(backbone, tmp_path):
    """One micro-batch of the paper preset on the CPU: six utterances."""
    task = paper(backbone, tmp_path)
    model = task.build_model(AttentionSites("softmax", "noncausal_self", {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    batch = some_batch(task, 6)
    loss = task.loss(model, batch)
    (loss.total / loss.num_terms).backward()
    optimizer.step()
    assert torch.isfinite(loss.total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())

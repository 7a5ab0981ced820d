"""``attention_transformer``: our Transformer, trained and decoded by fairseq's own commands on a CPU."""

from __future__ import annotations

import functools

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq_commands import (
    ALL_EXAMPLES,
    ATTENTIONS,
    USER_DIR,
    WithoutState,
    assert_same_hypotheses,
    batch_of,
    built,
    command,
    generated,
    greedy,
    hypotheses,
)

from benchmark.multihead import AttentionSites
from benchmark.registry import attention_declarations
from lavo_fairseq.encoder_decoder import PATTERNS, pad_right
from tasks.cross_entropy import PADDED, token_nats
from tasks.summarization.transformer import Transformer

SITES = [
    (attention, pattern)
    for attention in ATTENTIONS
    for pattern in PATTERNS
    if pattern not in attention_declarations(attention).get("unsupported", {})
]
POSITIONS = ("--max-source-positions=32", "--max-target-positions=32")
SIZES = (
    "--encoder-embed-dim=16",
    "--encoder-ffn-embed-dim=32",
    "--encoder-layers=1",
    "--decoder-layers=2",
    "--encoder-attention-heads=2",
)


def transformer(pair_bin, attention="lavo", pattern="causal_cross", **flags):
    """Configuration, task and model of ``attention_transformer`` with the sizes of SIZES."""
    arguments = ("--task=translation", "--arch=attention_transformer", *POSITIONS, *SIZES)
    return built(pair_bin, *arguments, attention=attention, attention_pattern=pattern, **flags)


def our_transformer(vocab_size, attention, pattern):
    """The Transformer of the summarisation task, with the sizes of SIZES."""
    torch.manual_seed(2)
    return Transformer(
        AttentionSites(attention, pattern, {}),
        vocab_size=vocab_size,
        embed_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_dim=32,
        max_source_length=32,
        max_target_length=32,
    ).eval()


@pytest.mark.parametrize(("attention", "pattern"), SITES)
def test_logits_and_loss_are_those_of_our_transformer_with_the_same_weights(pair_bin, attention, pattern):
    _, task, model = transformer(pair_bin, attention, pattern)
    pad = task.target_dictionary.pad()
    ours = our_transformer(len(task.target_dictionary), attention, pattern)
    model.backbone.load_state_dict(ours.state_dict())
    sample = batch_of(task, "test", size=5)
    inputs, targets = sample["net_input"], sample["target"]
    assert bool((inputs["src_tokens"][:, 0] == pad).any())  # fairseq pads sources on the left

    logits, _ = model(**inputs)
    for row in range(5):  # each row alone, without padding
        source = inputs["src_tokens"][row][inputs["src_tokens"][row] != pad]
        target = inputs["prev_output_tokens"][row][inputs["prev_output_tokens"][row] != pad]
        alone = ours(source[None], target[None])[0]
        torch.testing.assert_close(logits[row, : len(target)], alone, rtol=1e-4, atol=1e-5)

    criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
    loss, _, logged = criterion(model, sample)
    labels = targets.masked_fill(targets == pad, PADDED)
    torch.testing.assert_close(torch.as_tensor(logged["nll_loss"]), token_nats(logits, labels).sum())
    # fairseq spreads the smoothing over the other words, our loss over all words.
    share = 0.1 * len(task.target_dictionary) / (len(task.target_dictionary) - 1)
    torch.testing.assert_close(loss, token_nats(logits, labels, label_smoothing=share).sum())


@pytest.mark.parametrize(("attention", "pattern"), SITES)
def test_step_by_step_with_reordered_beams_equals_whole_targets(pair_bin, attention, pattern):
    _, task, model = transformer(pair_bin, attention, pattern)
    sample = batch_of(task, "test", size=3)
    inputs, tokens = sample["net_input"], torch.randint(4, 30, (3, 9), generator=torch.Generator().manual_seed(3))
    encoded = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
    whole, _ = model.decoder(tokens, encoder_out=encoded)
    state: dict = {}
    for stop in range(1, 5):
        logits, _ = model.decoder(tokens[:, :stop], encoder_out=encoded, incremental_state=state)
        torch.testing.assert_close(logits[:, -1], whole[:, stop - 1], rtol=1e-4, atol=1e-5)

    rows = torch.tensor([2, 0, 0, 1])
    model.decoder.reorder_incremental_state_scripting(state, rows)
    encoded = model.encoder.reorder_encoder_out(encoded, rows)
    logits, _ = model.decoder(tokens[rows], encoder_out=encoded, incremental_state=state)
    torch.testing.assert_close(logits, whole[rows][:, 4:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.decoder(tokens[rows], encoder_out=encoded)[0], whole[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize(("attention", "pattern"), [("lavo", "causal_cross"), ("performer", "causal_self")])
def test_decoding_with_a_state_finds_what_decoding_without_one_finds(pair_bin, attention, pattern, beam):
    cfg, task, model = transformer(pair_bin, attention, pattern)
    with (
        torch.no_grad()
    ):  # untrained weights give nearly equal probabilities, and rounding would choose between the beams
        model.backbone.output.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(4))
    sample = batch_of(task, "test", size=6)
    streamed = generated(task, cfg, model, sample, beam=beam)
    model.decoder = WithoutState(model.decoder)
    recomputed = generated(task, cfg, model, sample, beam=beam)
    assert_same_hypotheses(streamed, recomputed)


@pytest.fixture(scope="module")
def trained(pair_bin, tmp_path_factory):
    """The checkpoint after a few steps of ``fairseq-train``."""
    folder = tmp_path_factory.mktemp("checkpoints")
    training = "--optimizer=adam --lr=0.02 --batch-size=16 --max-epoch=6 --clip-norm=1 --no-epoch-checkpoints --cpu"
    model = "--arch=attention_transformer --attention=lavo --attention-pattern=causal_cross --dropout=0"
    loss = "--criterion=label_smoothed_cross_entropy --label-smoothing=0.1"
    command(
        f"fairseq-train {pair_bin} {USER_DIR} {model} {' '.join(SIZES)} {' '.join(POSITIONS)} "
        f"{training} {loss} {ALL_EXAMPLES} --save-dir={folder} --seed=1"
    )
    return folder / "checkpoint_best.pt"


@pytest.mark.parametrize("beam", [1, 4])
def test_generation_by_fairseq_covers_every_example(pair_bin, trained, beam):
    printed = command(
        f"fairseq-generate {pair_bin} {USER_DIR} --path={trained} --cpu --batch-size=8 "
        f"--beam={beam} --max-len-b=10 {ALL_EXAMPLES}"
    )
    found = hypotheses(printed)
    assert sorted(found) == list(range(20))
    if beam == 1:
        _, task, _ = transformer(pair_bin)
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(trained)], task=task)
        ours = our_transformer(len(task.target_dictionary), "lavo", "causal_cross")
        ours.load_state_dict(model.backbone.state_dict())
        task.load_dataset("test")
        for number in (0, 7):
            source = task.dataset("test")[number]["source"][None]
            assert found[number][1] == greedy(functools.partial(ours, source), [], task.target_dictionary, length=10)


def test_the_state_dict_has_each_weight_once(pair_bin):
    _, _, model = transformer(pair_bin)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"backbone"}


def test_padding_moves_to_the_end_and_the_order_of_tokens_stays():
    tokens, padding = pad_right(torch.tensor([[1, 1, 7, 5, 9], [8, 4, 6, 3, 2]]), pad=1)
    assert tokens.tolist() == [[7, 5, 9, 1, 1], [8, 4, 6, 3, 2]]
    assert padding.tolist() == [[False, False, False, True, True], [False] * 5]
    assert pad_right(torch.tensor([[7, 5]]), pad=1)[1] is None


def test_two_dictionaries_are_refused(pair_bin, lm_bin):
    _, task, _ = transformer(pair_bin)

    class TwoDictionaries:
        source_dictionary, target_dictionary = task.source_dictionary, type(task.source_dictionary)()

    from lavo_fairseq import AttentionTransformer

    with pytest.raises(ValueError, match="--joined-dictionary"):
        AttentionTransformer.build_model(None, TwoDictionaries)

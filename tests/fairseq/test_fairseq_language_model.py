"""``attention_lm``: our GPT, trained, evaluated and decoded by fairseq's own commands on a CPU."""

from __future__ import annotations

import math
import re

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.data.data_utils import collate_tokens
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
from tasks.cross_entropy import PADDED, token_nats
from tasks.language_modeling.gpt import GPT

LINES = ("--task=language_modeling", "--sample-break-mode=eos", "--tokens-per-sample=24")
SIZES = ("--decoder-embed-dim=16", "--decoder-layers=2", "--decoder-attention-heads=2")


def language_model(lm_bin, attention="lavo", **flags):
    """Configuration, task and model of ``attention_lm`` with the sizes of SIZES."""
    return built(lm_bin, *LINES, "--arch=attention_lm", *SIZES, attention=attention, **flags)


def our_gpt(vocab_size, attention, options=None):
    """The GPT of the language-modelling task, with the sizes of SIZES."""
    torch.manual_seed(2)
    sites = AttentionSites(attention, "causal_self", options or {})
    sizes = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "context_length": 24}
    return GPT(sites, vocab_size=vocab_size, **sizes).eval()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_and_loss_are_those_of_our_gpt_with_the_same_weights(lm_bin, attention):
    _, task, model = language_model(lm_bin, attention)
    ours = our_gpt(len(task.source_dictionary), attention)
    model.decoder.backbone.load_state_dict(ours.state_dict())
    sample = batch_of(task, "test", size=6)
    lengths = sample["net_input"]["src_lengths"]
    assert len(set(lengths.tolist())) > 1  # some rows are padded

    logits, _ = model(**sample["net_input"])
    assert torch.equal(logits, ours(sample["net_input"]["src_tokens"]))

    loss, num_tokens, _ = CrossEntropyCriterion(task, sentence_avg=False)(model, sample)
    targets = sample["target"].masked_fill(sample["target"] == task.source_dictionary.pad(), PADDED)
    torch.testing.assert_close(loss, token_nats(logits, targets).sum())
    assert num_tokens == int((targets != PADDED).sum()) == int(lengths.sum())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_step_by_step_with_reordered_beams_equals_whole_prefixes(lm_bin, attention):
    _, task, model = language_model(lm_bin, attention)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, len(task.source_dictionary), (3, 12), generator=generator)
    whole, _ = model(tokens)
    state: dict = {}
    for stop in range(1, 7):
        logits, _ = model.decoder(tokens[:, :stop], incremental_state=state)
        torch.testing.assert_close(logits[:, -1], whole[:, stop - 1], rtol=1e-4, atol=1e-5)

    rows = torch.tensor([2, 0, 0, 1])
    model.decoder.reorder_incremental_state_scripting(state, rows)
    continued = torch.cat([tokens[rows, :6], torch.randint(4, 30, (4, 5), generator=generator)], dim=1)
    logits, _ = model.decoder(continued, incremental_state=state)  # five new tokens at once
    torch.testing.assert_close(logits, model(continued)[0][:, 6:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("attention", ["lavo", "softmax", "cosformer"])
def test_decoding_with_a_state_finds_what_decoding_without_one_finds(lm_bin, attention, beam):
    cfg, task, model = language_model(lm_bin, attention)
    sharpen(model.decoder.backbone.embedding)
    sample = batch_of(task, "test", size=4)
    prefixes = [torch.tensor(row) for row in ([5, 6, 7], [8, 9], [4], [7, 8, 9])]
    prefix = collate_tokens(prefixes, task.source_dictionary.pad())
    streamed = generated(task, cfg, model, sample, beam=beam, prefix=prefix)
    model.decoder = WithoutState(model.decoder)
    recomputed = generated(task, cfg, model, sample, beam=beam, prefix=prefix)
    assert_same_hypotheses(streamed, recomputed)


def sharpen(embedding):
    """Makes probabilities unequal: with untrained weights rounding would choose between the beams."""
    with torch.no_grad():
        embedding.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def trained(lm_bin, tmp_path_factory):
    """The checkpoint after a few steps of ``fairseq-train``, and the validation loss of each epoch in bits."""
    folder = tmp_path_factory.mktemp("checkpoints")
    training = "--optimizer=adam --lr=0.01 --batch-size=16 --max-epoch=3 --clip-norm=1 --no-epoch-checkpoints --cpu"
    model = f'--arch=attention_lm --attention=lavo --attention-options=\'{{"window": 4, "rank": 4}}\' {" ".join(SIZES)}'
    log = folder / "log"
    command(
        f"fairseq-train {lm_bin} {USER_DIR} {' '.join(LINES)} {model} {training} {ALL_EXAMPLES} "
        f"--save-dir={folder} --log-file={log} --log-format=json --seed=1"
    )
    losses = [float(loss) for loss in re.findall(r'"valid_loss": "([0-9.]+)"', log.read_text())]
    return folder / "checkpoint_best.pt", losses


def restored(lm_bin, trained):
    """fairseq's model with the weights of the checkpoint, and our GPT with the same."""
    cfg, task, _ = language_model(lm_bin)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(trained[0])], task=task)
    ours = our_gpt(len(task.source_dictionary), "lavo", {"window": 4, "rank": 4})
    weights = {name.removeprefix("decoder.backbone."): value for name, value in model.state_dict().items()}
    ours.load_state_dict(weights)
    return cfg, task, model.eval(), ours


def test_training_lowers_the_loss(trained):
    _, losses = trained
    assert losses[-1] < losses[0] < math.log2(40)


def test_evaluation_by_fairseq_gives_our_own_loss(lm_bin, trained, caplog):
    _, task, _, ours = restored(lm_bin, trained)
    command(
        f"fairseq-eval-lm {lm_bin} {USER_DIR} --path={trained[0]} --cpu --batch-size=8 "
        "--gen-subset=test --sample-break-mode=eos --tokens-per-sample=24"
    )
    printed = next(text for text in reversed(caplog.messages) if text.startswith("Loss (base 2)"))
    sample = batch_of(task, "test", size=20)
    targets = sample["target"].masked_fill(sample["target"] == task.source_dictionary.pad(), PADDED)
    with torch.no_grad():
        nats = token_nats(ours(sample["net_input"]["src_tokens"]), targets).sum() / sample["ntokens"]
    bits = float(nats) / math.log(2)
    assert f"Loss (base 2): {bits:.4f}, Perplexity: {2**bits:.2f}" == printed


@pytest.mark.parametrize("beam", [1, 4])
def test_generation_by_fairseq_covers_every_example(lm_bin, trained, beam):
    printed = command(
        f"fairseq-generate {lm_bin} {USER_DIR} --path={trained[0]} --cpu --batch-size=8 "
        f"{' '.join(LINES)} --gen-subset=test --beam={beam} --prefix-size=2 --max-len-b=10 {ALL_EXAMPLES}"
    )
    found = hypotheses(printed)
    assert sorted(found) == list(range(20))
    if beam == 1:
        _, task, _, ours = restored(lm_bin, trained)
        sample = batch_of(task, "test", size=20)
        for number in (0, 7):
            text = greedy(ours, sample["target"][number, :2].tolist(), task.source_dictionary, length=10)
            assert found[number][1] == text


def test_the_longest_input_is_that_of_the_attention_or_of_the_positions(lm_bin):
    assert language_model(lm_bin, "softmax")[2].max_positions() == 10**6
    assert language_model(lm_bin, "cosformer")[2].max_positions() == 24
    assert language_model(lm_bin, "cosformer", attention_options='{"max_length": 20}')[2].max_positions() == 20
    assert language_model(lm_bin, "softmax", positions="learned")[2].max_positions() == 24


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"attention": "lav"}, r"attention 'lav': unknown \(did you mean lavo\?\)"),
        ({"attention_pattern": "causal_cross"}, "--attention-pattern causal_cross: this architecture has causal_self"),
        ({"attention_options": "{rank: 3}"}, r"--attention-options \{rank: 3\}: not JSON"),
        ({"attention_options": "[3]"}, r"--attention-options \[3\]: must be a JSON object"),
        ({"attention_options": '{"ranks": 3}'}, r"option 'ranks' of attention lavo: unknown \(did you mean rank\?\)"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(lm_bin, flags, message):
    with pytest.raises(ValueError, match=message) as caught:
        language_model(lm_bin, **flags)
    assert "\n" not in str(caught.value)

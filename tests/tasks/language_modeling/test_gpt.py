"""The backbone: causality, streaming, positions, and its loss without the whole logits."""

import math

import pytest
import torch

from benchmark.measuring.memory import allocated_by
from tasks.cross_entropy import PADDED, token_nats
from tasks.language_modeling.gpt import GPT, sinusoids

ATTENTIONS = [("softmax", {}), ("lavo", {"window": 8, "rank": 4})]


def build(sites, *, vocab_size=20, **options):
    sizes = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "context_length": 64, **options}
    return GPT(sites, vocab_size=vocab_size, **sizes).eval()


def some_tokens(*shape, seed=1):
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("attention", "options"), ATTENTIONS)
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("splits", [[41], [1] * 41, [0, 7, 0, 1, 33, 0], [8, 16, 17]])
def test_streaming_gives_the_logits_of_the_whole(sites, attention, options, positions, splits):
    model = build(sites(attention, **options), positions=positions).double()
    tokens = some_tokens(3, 41)
    state, pieces = model.init_state(3), []
    for piece in tokens.split(splits, dim=1):
        logits, state = model.extend(piece, state)
        pieces.append(logits)
    assert state.position == 41
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), rtol=0, atol=1e-9)


@pytest.mark.parametrize("splits", [[41], [1] * 41, [0, 7, 0, 1, 33, 0]])
def test_streaming_carries_the_shifted_tokens(sites, splits):
    model = build(sites(), token_shift=3).double()
    tokens = some_tokens(3, 41)
    state, pieces = model.init_state(3), []
    for piece in tokens.split(splits, dim=1):
        logits, state = model.extend(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), rtol=0, atol=1e-9)
    assert state.recent.equal(tokens[:, -3:])


def test_a_token_s_input_has_the_weighted_embeddings_of_the_tokens_before(sites):
    model = build(sites(), token_shift=2)
    tokens = some_tokens(2, 6)
    table, weights = model.embedding.weight * 4, model.shifts  # sqrt(16)
    model.positions = "attention"
    found = model._embed(tokens, 0, None)
    for row in range(2):
        for place in range(6):
            expected = table[tokens[row, place]].clone()
            for distance in range(1, min(2, place) + 1):
                expected += weights[distance - 1] * table[tokens[row, place - distance]]
            torch.testing.assert_close(found[row, place], expected)
    later = model._embed(tokens[:, 4:], 4, tokens[:, 2:4])
    torch.testing.assert_close(later, found[:, 4:])


def test_no_shift_has_no_parameter_and_draws_nothing(sites):
    torch.manual_seed(3)
    without = build(sites())
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert without.shifts is None
    assert build(sites(), token_shift=0).shifts is None
    assert torch.equal(torch.rand(1), drawn)


def test_generating_token_by_token_is_a_loop_over_extend(sites):
    model = build(sites("lavo", window=8))
    prompt = some_tokens(1, 5)
    logits, state = model.extend(prompt, model.init_state(1))
    tokens = prompt
    for _ in range(20):
        token = logits[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, token), 1)
        logits, state = model.extend(token, state)
    torch.testing.assert_close(model(tokens)[:, 4:-1].argmax(-1), tokens[:, 5:])


@pytest.mark.parametrize(("attention", "options"), ATTENTIONS)
def test_a_later_token_changes_no_earlier_logit(sites, attention, options):
    tokens = some_tokens(1, 30)
    changed = tokens.clone()
    changed[:, 20] = (tokens[:, 20] + 1) % 20
    for model in (build(sites(attention, **options)), build(sites(attention, **options), token_shift=2)):
        before, after = model(tokens), model(changed)
        torch.testing.assert_close(before[:, :20], after[:, :20])
        assert (before[:, 20:] - after[:, 20:]).abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize(
    ("attention", "asked", "used"),
    [
        ("softmax", "sinusoidal", "sinusoidal"),
        ("softmax", "learned", "learned"),
        ("softmax", "rotary", "rotary"),
        ("lavo", "sinusoidal", "attention"),
        ("lavo", "learned", "attention"),
        ("lavo", "rotary", "attention"),
        ("softmax", "none", "none"),
        ("lavo", "none", "attention"),
    ],
)
def test_an_attention_that_encodes_positions_gets_none_from_the_backbone(sites, attention, asked, used):
    model = build(sites(attention), positions=asked)
    assert model.positions == used
    assert (model.position_embedding is not None) == (used == "learned")
    assert model.max_length == (64 if used == "learned" else None)


def test_without_any_positions_order_is_invisible_to_softmax_and_with_them_it_is_not(sites):
    tokens = some_tokens(1, 12)
    swapped = tokens[:, [1, 0, *range(2, 12)]]
    for positions in ("sinusoidal", "learned", "rotary"):
        model = build(sites(), num_layers=1, positions=positions)
        assert (model(tokens) - model(swapped))[:, -1].abs().max() > 1e-4
        model.positions, model.position_embedding = "attention", None
        for block in model.blocks:
            block.attention.rotary = False
        torch.testing.assert_close(model(tokens)[:, -1], model(swapped)[:, -1])
    model = build(sites(), num_layers=1, positions="none")
    torch.testing.assert_close(model(tokens)[:, -1], model(swapped)[:, -1])


def test_learned_positions_refuse_what_they_were_not_trained_on(sites):
    model = build(sites(), positions="learned")
    _, state = model.extend(some_tokens(1, 60), model.init_state(1))
    with pytest.raises(ValueError, match="65 tokens: learned positions end at 64"):
        model.extend(some_tokens(1, 5), state)
    assert build(sites())(some_tokens(1, 300)).shape == (1, 300, 20)


def test_sinusoids_are_those_of_the_formula():
    table = sinusoids(5, 8, 6)
    for row, position in enumerate((5, 6, 7)):
        for i in range(3):
            angle = position / 10_000 ** (i / 2)
            assert table[row, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[row, i + 3].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_embeddings_are_tied(sites):
    names = dict(build(sites()).named_parameters())
    assert [name for name, tensor in names.items() if 20 in tensor.shape] == ["embedding.weight"]


def test_a_linear_state_does_not_grow_and_a_cache_does(sites):
    sizes = {}
    for attention, options in ATTENTIONS:
        model = build(sites(attention, **options))
        states = [model.extend(some_tokens(1, n), model.init_state(1))[1] for n in (64, 1024)]
        sizes[attention] = [model.state_bytes(state) for state in states]
    assert sizes["lavo"][0] == sizes["lavo"][1]
    assert sizes["softmax"][1] == 16 * sizes["softmax"][0]


@pytest.mark.parametrize("at_once", [30, 64, 10_000])
def test_nats_without_the_logits_are_those_of_the_logits(sites, at_once):
    torch.manual_seed(0)
    model = GPT(
        sites("lavo", window=4), vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, context_length=16
    ).double()
    tokens, targets = torch.randint(11, (2, 2, 13))
    targets[1, 9:] = PADDED
    wanted = list(model.parameters())
    expected = token_nats(model(tokens), targets)
    found = model.nats(tokens, targets, at_once=at_once)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(nats.sum(), wanted, allow_unused=True) for nats in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_checkpointing_changes_no_gradient_and_holds_less(sites):
    tokens = torch.randint(11, (2, 512))

    def step(checkpointing):
        torch.manual_seed(0)
        model = GPT(
            sites("lavo"), vocab_size=11, embed_dim=32, num_layers=6, num_heads=2, context_length=512, dropout=0.2,
            checkpointing=checkpointing,
        ).train()  # fmt: skip
        model.nats(tokens, tokens).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for a, b in zip(step(False), step(True), strict=True):
        torch.testing.assert_close(a, b)
    whole, recomputed = (allocated_by(lambda checkpointing=c: step(checkpointing)) for c in (False, True))
    assert recomputed < 0.5 * whole

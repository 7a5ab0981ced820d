"""The texts of each family, read by plain Python: every answer follows from its text, and from nothing shorter."""

from __future__ import annotations

import hashlib
from itertools import permutations, product

import numpy as np
import pytest

from tasks.recall.associative import FUZZY_SYMBOLS, power_law
from tasks.recall.copying import MARK, facts
from tasks.recall.data import TEXTS_AT_ONCE, draw
from tasks.recall.families import FAMILIES
from tasks.recall.texts import BLANK, NOWHERE, weighted_places
from tasks.recall.tracking import products

VOCAB_SIZE = 40
KEYS, VALUES = range(1, 20), range(20, 40)
SHAPES = {  # pairs, length; the second has room to be filled up
    "mqar": ((4, 16), (3, 24)),
    "fused": ((4, 8), (3, 20)),
    "fused_far": ((4, 8), (3, 20)),
    "fuzzy": ((4, 24), (3, 29)),
    "induction": ((4, 13), (3, 18)),
    "selective_copy": ((4, 8), (3, 15)),
    "compression": ((4, 5), (3, 9)),
    "memorisation": ((4, 4), (3, 9)),
    "parity": ((4, 4), (3, 9)),
    "permutations": ((4, 4), (3, 9)),
}
CASES = [
    pytest.param(name, pattern, shape, id=f"{name}-{pattern}-{shape[0]}-{shape[1]}")
    for name, family in FAMILIES.items()
    for pattern in family.patterns
    for shape in SHAPES[name]
]


def texts_of(name, pattern, shape, *, count=50, seed=0, vocab_size=VOCAB_SIZE):
    generator = np.random.Generator(np.random.PCG64(seed))
    return draw(FAMILIES[name], generator, count, shape, vocab_size, pattern)


def read_pairs(context):
    """The dictionary that a text of keys and values spells out."""
    return dict(zip(context[0::2], context[1::2], strict=True))


def read_mqar(context, tokens, asked, pairs):
    bound = read_pairs(context[: 2 * pairs])
    assert len(bound) == len(set(bound.values())) == pairs
    assert set(bound) <= set(KEYS)
    assert set(bound.values()) <= set(VALUES)
    assert len({tokens[place] for place in asked}) == pairs  # every key is asked for once
    return [bound[tokens[place]] for place in asked]


def read_fused(context, tokens, asked, pairs):
    bound = {key: value for key, value in context if key != BLANK}
    assert len(bound) == len(set(bound.values())) == pairs
    assert all(tokens[place][1] == BLANK for place in asked)
    assert len({tokens[place][0] for place in asked}) == pairs
    return [bound[tokens[place][0]] for place in asked]


def read_fuzzy(context, tokens, asked, pairs):
    bound = {tuple(context[3 * i : 3 * i + 2]): context[3 * i + 2] for i in range(pairs)}
    assert len(bound) == len(set(bound.values())) == pairs
    assert {word for key in bound for word in key} <= set(range(1, 1 + FUZZY_SYMBOLS))
    assert len({tuple(tokens[place - 1 : place + 1]) for place in asked}) == pairs
    return [bound[tuple(tokens[place - 1 : place + 1])] for place in asked]


def read_induction(context, tokens, asked, pairs):
    assert len(set(context)) == len(context)
    assert BLANK not in context
    return [context[context.index(tokens[place]) + 1] for place in asked]


def read_copy(context, tokens, asked, pairs):
    words = [word for word in context if word != BLANK]
    assert len(words) == pairs
    assert [tokens[place] for place in asked] == [MARK] * pairs
    return words


def read_compression(context, tokens, asked, pairs):
    assert len(set(asked)) == 1
    assert tokens[asked[0]] == MARK
    assert set(context[pairs:]) <= {BLANK}
    return context[:pairs]


def read_facts(context, tokens, asked, pairs):
    assert set(context) <= {BLANK}
    table = facts(VOCAB_SIZE)
    return [table[tokens[place]] for place in asked]


READERS = {
    "mqar": read_mqar,
    "fused": read_fused,
    "fused_far": read_fused,
    "fuzzy": read_fuzzy,
    "induction": read_induction,
    "selective_copy": read_copy,
    "compression": read_compression,
    "memorisation": read_facts,
}
AFTER = {  # words of the part that asks, in self-attention
    "fused": lambda pairs: pairs,
    "fused_far": lambda pairs: pairs,
    "fuzzy": lambda pairs: 3 * pairs,
    "induction": lambda pairs: 2 * pairs,
    "selective_copy": lambda pairs: pairs,
    "compression": lambda pairs: 1,
    "memorisation": lambda pairs: pairs,
}


@pytest.mark.parametrize(("name", "pattern", "shape"), [case for case in CASES if case.values[0] in READERS])
def test_every_answer_follows_from_a_plain_reading(name, pattern, shape):
    pairs, length = shape
    texts = texts_of(name, pattern, shape)
    for row in range(len(texts.tokens)):
        tokens, source = (
            None if x is None else [place if len(place) > 1 else place[0] for place in x[row].tolist()]
            for x in texts[:2]
        )
        if source is None:
            assert len(tokens) == length
            context = tokens[: 2 * pairs] if name == "mqar" else tokens[: length - AFTER[name](pairs)]
        else:
            assert len(source) == length
            context = source
        asked = texts.asked[row].tolist()
        assert READERS[name](context, tokens, asked, pairs) == texts.answers[row].tolist()


@pytest.mark.parametrize(("name", "pattern", "shape"), CASES)
def test_the_evidence_of_an_answer_holds_it(name, pattern, shape):
    texts = texts_of(name, pattern, shape)
    context = texts.tokens if texts.source is None else texts.source
    for row in range(len(texts.tokens)):
        for place, answer in zip(texts.evidence[row], texts.answers[row], strict=True):
            if place != NOWHERE:
                assert context[row, place].tolist()[-1] == answer
    assert (texts.evidence == NOWHERE).all() == (name in ("memorisation", "parity", "permutations"))


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self"])
def test_mqar_has_zoologys_layout_and_no_key_among_the_rest(pattern):
    """Pairs first, then queries at even places; what follows a query is no value of its key by design."""
    pairs, length = 4, 32
    texts = texts_of("mqar", pattern, (pairs, length), count=200)
    for row, asked in zip(texts.tokens[..., 0].tolist(), texts.asked.tolist(), strict=True):
        keys = set(row[: 2 * pairs : 2])
        assert all(place >= 2 * pairs and place % 2 == 0 for place in asked)
        rest = [word for place, word in enumerate(row) if place >= 2 * pairs and place not in asked]
        assert not keys & set(rest)
        if pattern == "noncausal_self":
            assert all(row[place + 1] == BLANK for place in asked)
    rest = np.delete(texts.tokens[..., 0], np.s_[: 2 * pairs], 1)
    assert set(range(VOCAB_SIZE)) == set(np.unique(rest))  # other keys, values and blank all occur


@pytest.mark.parametrize(("name", "pattern", "shape"), [case for case in CASES if case.values[1].endswith("self")])
def test_no_place_that_asks_sees_its_answer_without_attention(name, pattern, shape):
    """A place sees the words within its family's shift; the answer lies farther away."""
    texts = texts_of(name, pattern, shape, count=500)
    held = texts.evidence != NOWHERE
    assert (texts.asked - texts.evidence)[held].min(initial=99) > FAMILIES[name].shift


def test_near_places_are_more_likely_for_queries_by_zoologys_power_law():
    weights = power_law(28)
    assert weights[0] / weights[9] == pytest.approx(10**0.99, rel=1e-5)
    generator = np.random.Generator(np.random.PCG64(0))
    first = weighted_places(generator, 20_000, 4, weights)
    assert all(len(set(row)) == 4 for row in first[:200].tolist())
    shares = np.bincount(first[:, 0], minlength=28) / len(first)
    assert np.abs(shares - weights / weights.sum()).max() < 0.012


def test_products_are_those_of_permutations_counted_one_by_one():
    table = list(permutations(range(5)))
    for a, b in product(range(0, 120, 7), range(0, 120, 11)):
        assert products()[a, b] == table.index(tuple(table[a][i] for i in table[b]))


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in ("parity", "permutations") for shape in SHAPES[name]]
)
def test_states_are_those_after_one_move_at_a_time(name, shape):
    texts = texts_of(name, "causal_self", shape)
    table = list(permutations(range(5)))
    for moves, asked, answers in zip(
        texts.tokens[..., 0].tolist(), texts.asked.tolist(), texts.answers.tolist(), strict=True
    ):
        states, state = [], 0 if name == "parity" else tuple(range(5))
        for move in moves:
            if name == "parity":
                state = (state + move - 1) % 2
                states.append(state)
            else:
                state = tuple(table[move - 1][i] for i in state)
                states.append(table.index(state))
        assert [states[place] + 1 for place in asked] == answers
        assert asked == list(range(len(moves) - shape[0], len(moves)))


@pytest.mark.parametrize(("name", "pattern", "shape"), CASES)
def test_answers_are_spread_evenly_over_the_possible_ones(name, pattern, shape):
    """So that ``chance`` is what guessing gets: no answer is more likely than another, at any question."""
    texts = texts_of(name, pattern, shape, count=6000, vocab_size=20)
    number = FAMILIES[name].num_answers(20)
    for question in (0, shape[0] - 1):
        counts = np.bincount(texts.answers[:, question])
        counts = counts[counts > 0]
        if name != "memorisation":
            assert len(counts) == number
        expected = 6000 / len(counts)
        assert abs(counts - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize(("name", "pattern", "shape"), CASES)
def test_the_same_seed_gives_the_same_texts_and_more_texts_begin_alike(name, pattern, shape):
    def digest(texts):
        return hashlib.sha256(b"".join(x.tobytes() for x in texts if x is not None)).hexdigest()

    first = texts_of(name, pattern, shape)
    assert digest(first) == digest(texts_of(name, pattern, shape))
    assert digest(first) != digest(texts_of(name, pattern, shape, seed=1))
    assert first.tokens.max() < FAMILIES[name].words(VOCAB_SIZE)
    assert len(first.tokens) < TEXTS_AT_ONCE

"""Site cards: the rule gives each of its verdicts, and only resolved sites enter averages."""

from __future__ import annotations

from dataclasses import asdict, replace

import believable
import pytest

from benchmark.report.cards import DEVIATIONS, MEANING, card_of, card_table, judge, sentence
from benchmark.report.groups import group_records, selection
from benchmark.results import records
from benchmark.settings.tuned import TunedFile, Verified, settings_of_site

SOFTMAX = {0: 1.0, 1: 1.1, 2: 0.9}
FAR = {0: 2.0, 1: 2.2, 2: 1.8}  # gaps 1.0, 1.1, 0.9: mean 1.0, deviation 0.1
NEAR = {0: 1.1, 1: 1.1, 2: 1.1}  # gaps 0.1, 0.0, 0.2: mean 0.1, deviation 0.1
RULES = {"repeat": 3.0, "mean": 5.0}


def card(softmax=None, none=None, rules=None, doubled=None):
    return judge(
        SOFTMAX if softmax is None else softmax,
        FAR if none is None else none,
        RULES if rules is None else rules,
        higher_is_better=False,
        doubled=doubled,
    )


@pytest.mark.parametrize(
    ("verdict", "found"),
    [
        ("resolved", card()),
        ("resolved", card(doubled=(SOFTMAX, FAR))),
        ("transient", card(doubled=(SOFTMAX, NEAR))),
        ("redundant", card(none=NEAR)),
        ("redundant", card(none=NEAR, doubled=(SOFTMAX, FAR))),
        ("not_learnt", card(rules={"repeat": 0.95, "mean": 5.0})),
        ("not_learnt", card(rules={"repeat": 1.0})),  # as good as softmax is enough
        (None, card(none={})),
        (None, card(none={5: 2.0})),
        (None, card(softmax={0: 1.0}, none={0: 2.0})),
        (None, card(softmax={})),
    ],
)
def test_the_rule_gives_each_verdict(verdict, found):
    assert found.verdict == verdict
    assert found.is_resolved == (verdict == "resolved")
    assert (found.reason == "") == (verdict is not None)


def test_the_limit_is_three_deviations_of_the_paired_differences():
    spread = 1 / DEVIATIONS  # differences 1 - s, 1, 1 + s: mean 1, deviation s
    for share, verdict in ((0.999, "resolved"), (1.001, "redundant")):
        none = {seed: SOFTMAX[seed] + 1 + share * spread * offset for seed, offset in ((0, -1), (1, 0), (2, 1))}
        assert card(none=none).verdict == verdict


def test_a_gap_survives_if_its_interval_over_seeds_is_above_zero():
    edge = 4.302653 / 3**0.5  # Student's t with two degrees of freedom; differences 1 - s, 1, 1 + s
    for share, verdict in ((0.999, "resolved"), (1.001, "transient")):
        none = {seed: SOFTMAX[seed] + 1 + share / edge * offset for seed, offset in ((0, -1), (1, 0), (2, 1))}
        assert card(doubled=(SOFTMAX, none)).verdict == verdict
    worse = {seed: value - 1 for seed, value in SOFTMAX.items()}
    assert card(doubled=(SOFTMAX, worse)).verdict == "transient"


def test_one_seed_at_twice_the_steps_verifies_nothing():
    for softmax, none in (({0: 1.0}, {0: 0.2}), ({0: 1.0}, {0: 9.0}), ({}, {})):
        found = card(doubled=(softmax, none))
        assert found.verdict == "resolved"
        assert not found.is_verified
        assert "not verified at twice the steps" in sentence(found, "mse")


def test_a_site_at_which_none_is_ahead_says_so():
    worse = {seed: value - 1 for seed, value in SOFTMAX.items()}
    assert card(none=worse, rules={}).verdict == "redundant"
    assert "none is ahead" in sentence(card(none=worse, rules={}), "mse")
    assert "none is ahead" not in sentence(card(none=NEAR), "mse")


def test_seeds_are_paired():
    """The seeds differ by far more than softmax from none, but always in the same way."""
    softmax = {0: 1.0, 1: 11.0, 2: 21.0}
    assert card(softmax, {seed: value + 1 for seed, value in softmax.items()}, {}).verdict == "resolved"


def test_a_metric_of_which_higher_is_better_turns_every_sign():
    flipped = [{seed: -value for seed, value in values.items()} for values in (SOFTMAX, FAR)]
    found = judge(*flipped, {rule: -value for rule, value in RULES.items()}, higher_is_better=True)
    assert found.verdict == "resolved"
    assert found.gap.mean == pytest.approx(1.0)
    assert found.rule == "repeat"
    assert judge(*flipped[::-1], {}, higher_is_better=True).verdict == "redundant"


def groups_of(tmp_path):
    return group_records(records([believable.write_results(tmp_path / "quick")]))


def test_a_table_takes_what_was_verified_for_its_own_site_data_and_steps(tmp_path):
    group = next(
        group for group in groups_of(tmp_path) if group.pattern == "causal_self" and group.task == "forecasting"
    )
    metric = next(iter(group.metrics()))
    steps = group.settings.train["steps"]
    verified = Verified(
        backbone="informer",
        site="causal_self",
        data=group.data.sha256,
        steps=2 * steps,
        metric=metric,
        higher_is_better=False,
        settings=settings_of_site(asdict(group.reference.completed[0].config)),
        learning_rates=(3e-4, 3e-4),
        seeds=(0, 1, 2),
        softmax=tuple(SOFTMAX.values()),
        none=tuple(NEAR.values()),
    )

    def file(**changes):
        one = verified.model_copy(update=changes)
        return TunedFile(task="forecasting", preset="quick", metric=metric, higher_is_better=False, verified=(one,))

    def verdict(**changes):
        return card_of(group, [file(**changes)]).verdict

    group = replace(group, entries=tuple(entry for entry in group.entries if entry.attention in ("softmax", "none")))
    assert card_of(group, []).verdict == "resolved"
    assert not card_of(group, []).is_verified
    assert verdict() == "transient"
    others = ({"site": "every"}, {"data": "f" * 64}, {"steps": steps}, {"metric": "mae"}, {"backbone": "gpt"})
    for other in (*others, {"settings": ""}, {"learning_rates": (3e-4, 1e-3)}):
        assert verdict(**other) == "resolved"
    # The files of the current folder come last, and win.
    assert card_of(group, [file(), file(none=tuple(FAR.values()))]).verdict == "resolved"
    assert card_of(group, [file(none=tuple(FAR.values())), file()]).verdict == "transient"
    dropout = {**group.reference.completed[0].config.model, "dropout": 0.3}
    other_model = [
        replace(entry, records=tuple(replace(r, config=replace(r.config, model=dropout)) for r in entry.records))
        for entry in group.entries
    ]
    assert not card_of(replace(group, entries=tuple(other_model)), [file()]).is_verified


def test_a_card_is_written_above_its_table():
    assert sentence(card(), "mse") == (
        "**Site card: resolved.** Softmax is ahead of none by at least three deviations. Gap in mse: 1.00 ± 0.10 (3 seeds); "
        "not verified at twice the steps."
    )
    assert "after twice the steps, on validation data, 0.100 ± 0.10" in sentence(card(doubled=(SOFTMAX, NEAR)), "mse")
    assert sentence(card(rules={"repeat_last": 0.5}), "mse").count("repeat\\_last") == 1
    assert "no verdict" in sentence(card(none={}), "mse")


def test_the_table_of_cards_explains_every_verdict(tmp_path):
    cards = [(group, card_of(group, [])) for group in groups_of(tmp_path)]
    table = card_table(cards)
    assert len(table.rows) == len(cards)
    assert len(table.notes) == len(MEANING) + 1


def test_the_metric_of_selection_stands_beside_the_headline(tmp_path, monkeypatch):
    group = next(group for group in groups_of(tmp_path) if group.task == "forecasting")
    assert selection("forecasting") == "mse" == next(iter(group.metrics()))
    assert selection("summarization") == "loss"
    assert selection("no_such_task") is None
    assert card_of(group, []).steady is None
    monkeypatch.setattr("benchmark.report.cards.selection", lambda _: "mae")
    found = card_of(group, [])
    softmax, none = (list(entry.values("mae").values()) for entry in (group.reference, group.nothing))
    assert found.steady[0] == "mae"
    assert found.steady[1].mean == pytest.approx(sum(none) / 3 - sum(softmax) / 3)
    assert found.steady[1].mean != pytest.approx(found.gap.mean)
    assert "; in mae: " in sentence(found, "mse")
    assert "mae: " in card_table([(group, found)]).rows[0].printed[2].text

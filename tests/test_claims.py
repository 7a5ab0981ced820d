"""Claims: each rule gives each of its verdicts on synthetic records, says "not measured" on nothing, and ignores the order of records."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace

import believable
import numpy as np
import pytest
from command_line import lavo_bench

from benchmark.interface import PRESETS
from benchmark.measuring.points import Point, write_points
from benchmark.report import build_report
from benchmark.report.cards import card_of
from benchmark.report.claims import claims_blocks
from benchmark.report.claims.evidence import findings_of, parts_of
from benchmark.report.claims.files import DEFAULT, RULES, read_claims
from benchmark.report.claims.found import Records
from benchmark.report.claims.rules import (
    LINEAR,
    RANGE,
    Finding,
    Scale,
    decide,
    judge_growth,
    judge_reach,
    judge_slower,
    judge_state,
)
from benchmark.report.claims.text import judge_claims
from benchmark.report.document import render_markdown
from benchmark.report.groups import group_records
from benchmark.report.scaling import slope
from benchmark.report.speed import read_sweeps
from benchmark.results import CellConfig, CellName, DataSource, MetricValue, Record, write_record
from benchmark.settings.messages import ConfigError

PAPER = read_claims()
CLAIMS = {claim.name: claim for claim in PAPER.claims}
JITTER = {0: -0.01, 1: 0.0, 2: 0.01}


def record(site, attention, seed, value, *, preset="quick", embedded=True, label=None, options=None, curves=None):
    """A completed record in memory.  site: (task, backbone, pattern, metric, whether higher is better)."""
    task, backbone, pattern, metric, higher = site
    cell = CellName(task, backbone, pattern, attention, preset, seed, f"{attention}{seed}"[:12], label)
    return Record(
        cell,
        "completed",
        CellConfig(options=options or {}, train={"steps": 10}),
        metrics={metric: MetricValue(value, 50, higher)},
        curves_file=curves,
        data=DataSource("embedded" if embedded else "real", embedded, "a" * 64),
        started="2026-01-01T00:00:00+00:00",
    )


def cells(site, levels, spread=None, **changes):
    """Three seeds of each attention.  The jitter of an attention depends on its name, so that differences vary over seeds."""
    found = []
    for attention, level in levels.items():
        scale = (spread or {}).get(attention, 0.5 + (sum(map(ord, attention)) % 7) / 7)
        found += [record(site, attention, seed, level + scale * JITTER[seed], **changes) for seed in JITTER]
    return found


def at(records, sweeps=()):
    groups = group_records(records)
    return Records(groups, {id(g): card for g in groups if (card := card_of(g, [])) is not None}, sweeps)


def verdict(name, records=(), sweeps=(), attention="lavo"):
    findings = findings_of(CLAIMS[name], attention, at(records, sweeps))
    return decide(parts_of(CLAIMS[name]), findings)


def point(attention, mode, length, seconds, **changes):
    low, high = (None, None) if seconds is None else (0.97 * seconds, 1.03 * seconds)
    made = Point(mode, "causal_self", 1, length, 8, 64, attention, "float32", "cpu", "torch", 5, seconds, low, high)
    return made._replace(**changes)


def sweeps_of(points, tmp_path):
    write_points(tmp_path / "efficiency.csv", points)
    return read_sweeps([tmp_path])


LONG = [2**power for power in range(8, 18)]  # 256 to 131,072


def curve(attention, power, lengths=LONG, **changes):
    return [point(attention, mode, n, 1e-9 * n**power, **changes) for mode in ("forward", "backward") for n in lengths]


def decoded(attention, grows, lengths=(1024, 16384)):
    return [point(attention, "decode", n, 1e-4, base_bytes=5000 + (n if grows else 0)) for n in lengths]


# --- the rules alone


@pytest.mark.parametrize(
    ("law", "outcome"),
    [
        (lambda n: n, "for"),
        (lambda n: n**1.05, "for"),
        (lambda n: n**1.2, "against"),
        (lambda n: n**2, "against"),
        (lambda n: n * (1 + 0.4 * (-1) ** round(math.log2(n))), "open"),  # noise of 40 %: the interval is wide
    ],
)
def test_an_exponent_is_judged_by_its_interval(law, outcome):
    points = [point("lavo", "forward", n, 1e-9 * law(n)) for n in LONG]
    assert judge_growth(slope(points))[0] == outcome


def test_the_limit_of_linear_growth_is_the_exponent_of_n_log_n():
    points = [point("lavo", "forward", n, 1e-9 * n * math.log(n)) for n in LONG]
    assert slope(points).value == pytest.approx(LINEAR, abs=0.01)
    assert judge_growth(slope(points))[0] != "for"


def test_an_exponent_over_few_or_close_lengths_decides_nothing():
    assert judge_growth(None)[0] == "missing"
    for lengths in ([4096, 8192], [4096, 8192, 16384]):
        assert judge_growth(slope([point("lavo", "forward", n, 1e-9 * n) for n in lengths]))[0] == "open"


@pytest.mark.parametrize(
    ("sizes", "outcome"),
    [
        ({}, "missing"),
        ({128: 100}, "missing"),
        ({128: 1000, 1024: 1009}, "for"),
        ({128: 1000, 1024: 1011}, "against"),
        ({128: 1000, 256: 1000}, "open"),
        ({128: 1011, 1024: 1000}, "against"),  # it doesn't matter which end is larger
    ],
)
def test_a_state_is_constant_within_a_per_cent_over_a_wide_range(sizes, outcome):
    assert judge_state(sizes)[0] == outcome


def test_a_length_is_reached_by_a_plain_kernel_alone():
    def outcome(*points):
        return judge_reach(points, 1000, ["torch"])[0]

    assert outcome() == "missing"
    assert outcome(point("lavo", "forward", 500, 1.0)) == "missing"
    assert outcome(point("lavo", "forward", 1000, 1.0)) == "for"
    assert outcome(point("lavo", "forward", 1000, 1.0, kernel="triton")) == "unusable"
    assert outcome(point("lavo", "forward", 1000, None, status="over_budget")) == "open"
    full = point("lavo", "forward", 900, None, status="out_of_memory")
    assert outcome(full, point("lavo", "forward", 1000, 1.0)) == "against"
    assert outcome(full._replace(length=2000), point("lavo", "forward", 1000, 1.0)) == "for"


def test_slower_means_apart_at_every_short_length():
    def outcome(*ratios):
        ours = [point("lavo", "forward", 128 * 2**i, ratio) for i, ratio in enumerate(ratios)]
        theirs = [point("flash", "forward", 128 * 2**i, 1.0) for i in range(len(ratios))]
        return judge_slower(ours, theirs, 512)[0]

    assert outcome() == "missing"
    assert outcome(2.0, 1.5, 1.1) == "for"
    assert outcome(2.0, 1.5, 1.1, 0.1) == "for"  # 1,024 tokens are not short
    assert outcome(2.0, 1.5, 1.05) == "open"  # the intervals touch
    assert outcome(2.0, 0.5) == "open"
    assert outcome(0.5, 0.4, 0.3) == "against"


def test_the_verdict_follows_from_the_parts():
    def word(*outcomes, parts=("a", "b")):
        return decide(parts, [Finding(part, outcome) for part, outcome in outcomes]).verdict

    assert word(("a", "for"), ("b", "for")) == "supported"
    assert word(("a", "for"), ("b", "for"), ("b", "context")) == "supported"
    assert word(("a", "for"), ("b", "missing")) == "undecided"
    assert word(("a", "for"), ("b", "for"), ("b", "open")) == "undecided"
    assert word(("a", "for"), ("b", "against")) == "contradicted"
    assert word(("a", "missing"), ("b", "against")) == "contradicted"
    assert word(("a", "unusable"), ("b", "missing")) == "undecided"
    assert word(("a", "missing"), ("b", "context")) == "not measured"
    assert word() == "not measured"


def test_a_verdict_is_free_of_the_scale_only_if_its_figures_are():
    small, full = Scale("quick", "x", ("preset quick",)), Scale("gpu", "x")

    def text(*found):
        return str(decide(("a", "b"), [Finding(part, outcome, scale=scale) for part, outcome, scale in found]))

    assert text(("a", "for", full), ("b", "for", full)) == "supported"
    assert text(("a", "for", full), ("b", "for", small)) == "supported at this scale"
    assert text(("a", "against", full), ("b", "for", small)) == "contradicted"
    assert text(("a", "against", full), ("b", "against", small)) == "contradicted"
    assert text(("a", "against", small), ("b", "for", full)) == "contradicted at this scale"
    assert text(("a", "open", small)) == "undecided at this scale"
    assert text(("a", "missing", small)) == "not measured"


# --- each of the paper's claims, with each verdict


def test_the_papers_eight_claims_have_a_source_each_and_say_what_measures_them():
    assert [claim.name for claim in PAPER.claims] == [
        *("linear_cost", "long_context", "extrapolation", "parts_matter"),
        *("speech", "summarisation", "cross_attention", "slower_when_short"),
    ]
    assert all(claim.source and claim.limits and claim.to_measure.startswith("lavo-bench ") for claim in PAPER.claims)
    assert PAPER.attention == "lavo"


@pytest.mark.parametrize("name", CLAIMS)
def test_without_records_nothing_is_measured(name):
    assert verdict(name).verdict == "not measured"


@pytest.mark.parametrize("name", CLAIMS)
def test_records_of_other_attentions_measure_nothing(name, tmp_path):
    records = [r for r in every_record(0.5) if r.cell.attention != "lavo"]
    sweeps = sweeps_of([*curve("flash", 2), *decoded("flash", True)], tmp_path)
    assert verdict(name, records, sweeps).verdict == "not measured"


@pytest.mark.parametrize(
    ("power", "grows", "expected"),
    [
        (1.0, False, "supported"),
        (2.0, False, "contradicted"),
        (1.0, True, "contradicted"),
        (1.0, None, "undecided"),  # the state was not measured
    ],
)
def test_linear_cost(power, grows, expected, tmp_path):
    points = [*curve("lavo", power), *([] if grows is None else decoded("lavo", grows))]
    found = verdict("linear_cost", sweeps=sweeps_of(points, tmp_path))
    assert found.verdict == expected
    assert str(found).endswith("at this scale")  # on a CPU


def test_cost_on_an_accelerator_needs_no_addition_and_outweighs_a_cpu(tmp_path):
    points = [*curve("lavo", 1.0), *decoded("lavo", False)]
    device = [p._replace(device="NVIDIA H200") for p in points]
    slow = [p._replace(seconds=p.seconds * p.length) for p in points]  # quadratic on the CPU
    assert str(verdict("linear_cost", sweeps=sweeps_of([*slow, *device], tmp_path))) == "supported"


@pytest.mark.parametrize(
    ("changes", "lengths", "expected"),
    [
        ({}, LONG, "supported"),
        ({}, LONG[:-1], "not measured"),
        ({"kernel": "triton"}, LONG, "undecided"),
        ({"status": "out_of_memory"}, LONG[-1:], "contradicted"),
    ],
)
def test_long_context(changes, lengths, expected, tmp_path):
    sweeps = sweeps_of(curve("lavo", 1.0, lengths, **changes), tmp_path)
    assert verdict("long_context", sweeps=sweeps).verdict == expected


@pytest.mark.parametrize(("factor", "expected"), [(2.0, "supported"), (0.5, "contradicted"), (1.01, "undecided")])
def test_slower_when_short(factor, expected, tmp_path):
    points = [*curve("flash", 1.0), *(p._replace(**scaled(p, factor)) for p in curve("lavo", 1.0))]
    assert verdict("slower_when_short", sweeps=sweeps_of(points, tmp_path)).verdict == expected


def scaled(p, factor):
    return {name: factor * getattr(p, name) for name in ("seconds", "seconds_low", "seconds_high")}


LM = ("language_modeling", "gpt", "causal_self", "loss", False)


def by_length(trained, longest, lengths=(128, 2048)):
    rows = [{"length": n, "loss": loss, "state_bytes": 9} for n, loss in zip(lengths, (trained, longest), strict=True)]
    return {"training_length": lengths[0], "loss_by_length": rows}


def extrapolating(ours, lengths=(128, 2048), none=2.0):
    """ours: LAVO's loss at the longest length.  Rivals rise from 1.0 to 1.5, softmax to 1.4."""
    ends = {"softmax": (1.0, 1.4), "performer": (1.1, 1.5), "lavo": (1.05, ours), "none": (none, none)}
    found = []
    for attention, (trained, longest) in ends.items():
        for seed in JITTER:
            shift = JITTER[seed] * (1 + len(attention) / 10)
            curves = by_length(trained + shift, longest + shift * 1.3, lengths)
            found.append(record(LM, attention, seed, trained + shift, curves=curves))
    return found


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (extrapolating(1.05), "supported"),
        (extrapolating(1.9), "contradicted"),
        (extrapolating(1.4), "undecided"),  # as high as softmax at the end
        (extrapolating(1.05, none=0.99), "undecided"),  # the site is not resolved
        (extrapolating(1.05, lengths=(128, 512)), "not measured"),  # only four times the training length
    ],
)
def test_extrapolation(records, expected):
    assert verdict("extrapolation", records).verdict == expected


def test_a_lower_loss_that_rises_more_is_no_better_extrapolation():
    records = extrapolating(1.3)  # below softmax's 1.4 at the end; rises by 0.25, softmax by 0.4
    assert verdict("extrapolation", records).verdict == "supported"
    steep = [
        replace(r, curves_file=by_length(0.5 + JITTER[r.cell.seed], 1.3 + 1.3 * JITTER[r.cell.seed]))
        if r.cell.attention == "lavo"
        else r
        for r in records
    ]
    assert verdict("extrapolation", steep).verdict == "contradicted"  # rises by 0.8


def ablated(dissection, position, **changes):
    whole = {"dissect": True, "position_bias": True, "window": 64}
    rows = [("lavo", 1.0, whole), ("lavo_a", dissection, {**whole, "dissect": False})]
    rows += [("lavo_b", position, {**whole, "position_bias": False})]
    return [
        record(LM, "lavo", seed, level + (1 + len(label)) * 0.1 * JITTER[seed], label=label, options=options, **changes)
        for label, level, options in rows
        if level is not None
        for seed in JITTER
    ]


@pytest.mark.parametrize(
    ("dissection", "position", "expected"),
    [
        (2.0, 1.5, "supported"),
        (2.0, 0.5, "contradicted"),
        (2.0, 1.0, "undecided"),
        (2.0, None, "undecided"),
        (None, None, "not measured"),
    ],
)
def test_parts_matter(dissection, position, expected):
    found = verdict("parts_matter", ablated(dissection, position))
    assert found.verdict == expected


def test_a_variant_that_differs_in_another_option_too_is_no_ablation():
    records = [
        replace(r, config=replace(r.config, options={**r.config.options, "window": 16}))
        if r.cell.label != "lavo"
        else r
        for r in ablated(2.0, 1.5)
    ]
    assert verdict("parts_matter", records).verdict == "not measured"


SPEECH = [
    ("text_to_speech", "transformer_tts", "causal_self", "mcd", False),
    ("text_to_speech", "fastspeech2", "noncausal_self", "mcd", False),
    ("text_to_speech", "transformer_tts", "noncausal_self", "mcd", False),
]
SUMMARIES = [("summarization", "transformer", "noncausal_self", "rouge1", True)]
CROSS = [
    ("point_cloud_completion", "pointr", "noncausal_cross", "chamfer_l1", False),
    ("forecasting", "informer", "noncausal_cross", "mse", False),
]
SITES = {"speech": SPEECH, "summarisation": SUMMARIES, "cross_attention": CROSS}


def site_records(site, ours, none=2.0, **changes):
    """ours: how far LAVO is behind the best possible value; softmax 0.5, the other linear attentions 1.0 and 1.1, none 2."""
    levels = {"softmax": 0.5, "performer": 1.0, "cosformer": 1.1, "none": none, "lavo": ours}
    sign = -1 if site[4] else 1
    return cells(site, {name: 10 + sign * level for name, level in levels.items()}, **changes)


def every_record(ours, **changes):
    found = [r for sites in SITES.values() for site in sites for r in site_records(site, ours, **changes)]
    return [*found, *extrapolating(1.05), *ablated(2.0, 1.5)]


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize(
    ("ours", "none", "expected"),
    [
        (0.8, 2.0, "supported at this scale"),  # behind softmax, which contradicts nothing
        (1.5, 2.0, "contradicted at this scale"),
        (1.0, 2.0, "undecided at this scale"),
        (0.3, 0.51, "undecided at this scale"),  # far ahead, at a site that softmax doesn't need
    ],
)
def test_best_at_sites(name, ours, none, expected):
    records = [r for site in SITES[name] for r in site_records(site, ours, none)]
    assert str(verdict(name, records)) == expected


@pytest.mark.parametrize("name", ["speech", "cross_attention"])
def test_one_part_that_fails_contradicts_and_one_without_records_leaves_it_open(name):
    first, *others = SITES[name]
    good = [r for site in others for r in site_records(site, 0.8)]
    assert verdict(name, [*good, *site_records(first, 1.5)]).verdict == "contradicted"
    assert verdict(name, good).verdict == "undecided"


def test_being_best_of_those_that_are_no_better_than_none_supports_nothing():
    (site,) = SUMMARIES
    levels = {"softmax": 0.5, "performer": 3.0, "cosformer": 3.1, "none": 2.0, "lavo": 2.0}
    found = verdict("summarisation", cells(site, {name: 10 - level for name, level in levels.items()}))
    assert found.verdict == "undecided"


@pytest.mark.parametrize(
    ("broken", "expected"),
    [(None, "contradicted"), ("lavo", "contradicted"), ("performer", "undecided"), ("none", "undecided")],
)
def test_an_attention_does_not_escape_a_claim_by_failing(broken, expected):
    """A rival's degenerate cell decides nothing; its own counts against it."""
    unstopped = {"unstopped": MetricValue(50.0, 50)}
    records = [
        replace(r, metrics={**r.metrics, **unstopped}) if r.cell.attention == broken else r
        for r in every_record(1.5)
        if r.cell.task == "text_to_speech"
    ]
    assert verdict("speech", records).verdict == expected


def test_a_site_without_another_linear_attention_decides_nothing():
    (site,) = SUMMARIES
    records = [r for r in site_records(site, 0.8) if r.cell.attention not in ("performer", "cosformer")]
    assert verdict("summarisation", records).verdict == "undecided"


def test_one_seed_decides_nothing():
    (site,) = SUMMARIES
    records = [r for r in site_records(site, 0.8) if r.cell.attention != "lavo" or r.cell.seed == 0]
    assert verdict("summarisation", records).verdict == "undecided"


def test_the_largest_preset_decides_alone():
    (site,) = SUMMARIES
    small, large = site_records(site, 1.5, preset="small"), site_records(site, 0.8, preset="gpu")
    assert verdict("summarisation", small).verdict == "contradicted"
    for records in ([*small, *large], [*large, *small]):
        assert verdict("summarisation", records).verdict == "supported"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("embedded", [True, False])
def test_without_test_sampling_every_preset_is_at_this_scale(preset, embedded):
    (site,) = SUMMARIES
    found = verdict("summarisation", site_records(site, 0.8, preset=preset, embedded=embedded))
    assert str(found) == "supported at this scale"
    assert "test sampling unknown" in found.limits
    assert ("made-up data" in found.limits) == embedded
    assert (f"preset {preset}" in found.limits) == (preset not in ("gpu", "paper"))


@pytest.mark.parametrize(
    ("preset", "embedded", "expected"),
    [
        ("gpu", False, "supported"),
        ("paper", False, "supported"),
        ("small", False, "supported at this scale"),
        ("gpu", True, "supported at this scale"),
    ],
)
def test_real_data_at_gpu_with_test_examples_is_a_verdict_without_addition(preset, embedded, expected, tmp_path):
    records = with_examples(site_records(CROSS[1], 0.8, preset=preset, embedded=embedded), tmp_path, noise=0.01)
    claim = CLAIMS["cross_attention"]
    findings = [f for f in findings_of(claim, "lavo", at(records)) if f.part == "forecasting"]
    assert all(f.low_test is not None for f in findings)
    assert str(decide(["forecasting"], findings)) == expected


def test_a_difference_that_test_examples_leave_open_is_not_resolved(tmp_path):
    records = with_examples(site_records(CROSS[1], 0.8), tmp_path, noise=9.0)
    findings = findings_of(CLAIMS["cross_attention"], "lavo", at(records))
    assert decide(["forecasting"], [f for f in findings if f.part == "forecasting"]).verdict == "undecided"
    assert any(f.reason.startswith("resolved over seeds, and not over test examples") for f in findings)


def with_examples(records, folder, noise):
    """Writes the records with errors of 60 windows each, whose mean is the record's MSE."""
    found = []
    for one in records:
        generator = np.random.default_rng(len(found))
        values = generator.standard_normal(60) * noise
        values += one.value("mse") - values.mean()
        path = folder / f"{one.cell.attention}.s{one.cell.seed}.json"
        found.append(write_record(path, one, {"mse": values}))
    return found


def test_p_is_adjusted_over_all_comparisons_of_the_claim():
    """Two differences whose p is 3 % each: alone one would be resolved, together none is."""
    from scipy.stats import ttest_rel

    (site,) = SUMMARIES
    records = [r for r in site_records(site, 0.8) if r.cell.attention not in ("performer", "cosformer")]
    spread = 0.6 * 3**0.5 / 5.6  # Student's t of 5.6 with two degrees of freedom
    for rival in ("performer", "cosformer"):
        records += [
            record(site, rival, seed, 9.2 - 0.6 + spread * offset) for seed, offset in ((0, -1), (1, 0), (2, 1))
        ]
    found = {f.what: f for f in findings_of(CLAIMS["summarisation"], "lavo", at(records))}
    for rival in ("performer", "cosformer"):
        raw = float(ttest_rel(*zip(*pairs(records, "lavo", rival), strict=True)).pvalue)
        assert 0.02 < raw < 0.04
        assert found[f"lavo − {rival}"].p == pytest.approx(2 * raw)
        assert found[f"lavo − {rival}"].outcome == "open"


def pairs(records, first, second):
    values = {(r.cell.attention, r.cell.seed): next(iter(r.metrics.values())).value for r in records}
    return [(values[first, seed], values[second, seed]) for seed in JITTER]


# --- the view


def everything(tmp_path):
    """Records and sweeps that decide all eight claims."""
    points = [*curve("lavo", 1.0), *curve("flash", 2.0), *decoded("lavo", False)]
    return every_record(0.8), sweeps_of(points, tmp_path)


def page(records, sweeps, file=None):
    groups = group_records(records)
    cards = [(g, card) for g in groups if (card := card_of(g, [])) is not None]
    return claims_blocks(groups, cards, sweeps, file)


def test_the_order_of_records_and_points_changes_nothing(tmp_path):
    records, sweeps = everything(tmp_path)
    text = render_markdown("Claims", page(records, sweeps))
    assert "supported at this scale" in text
    for seed in range(3):
        draw = random.Random(seed)
        mixed = [
            s._replace(points=tuple(sorted(s.points, key=lambda p: p.length))) for s in draw.sample(sweeps, len(sweeps))
        ]
        assert render_markdown("Claims", page(draw.sample(records, len(records)), mixed)) == text


def test_every_verdict_of_the_page_is_that_of_the_rule(tmp_path):
    records, sweeps = everything(tmp_path)
    blocks = page(records, sweeps)
    table = next(block for block in blocks if getattr(block, "slug", "") == "claims")
    judged = judge_claims(PAPER, at(records, sweeps))
    assert [row.printed[0].text for row in table.rows] == [str(one.decision) for one in judged]
    assert {row["claim"]: row["verdict"] for row in table.values} == {j.claim.name: str(j.decision) for j in judged}
    text = render_markdown("Claims", blocks)
    for one in judged:
        assert f"Claim {one.number}, {one.claim.name.replace('_', ' ')}: {one.decision}" in text
        assert one.claim.source.split("(")[0] in text.replace("\\", "")


def test_only_a_verdict_at_full_scale_lacks_the_addition(tmp_path):
    text = render_markdown("Claims", page(*everything(tmp_path)))
    for line in text.splitlines():
        if line.startswith("### Claim"):
            assert line.endswith((": not measured", "at this scale")), line


def small_results(folder):
    """One table with three attentions and ``none``, so that reports are quick."""
    for attention in ("softmax", "lavo", "performer", "none", "my_att"):
        for seed in believable.SEEDS:
            believable.write_cell(folder, "forecasting", "informer", "causal_self", attention, seed)


def test_a_report_writes_claims_beside_itself_and_a_table(tmp_path):
    small_results(tmp_path / "quick")
    believable.write_sweep(tmp_path / "quick")
    built = build_report([tmp_path / "quick"], tmp_path / "out")
    assert built.faults == []
    text = (tmp_path / "out" / "claims.md").read_text()
    assert text.count("\n### Claim ") == len(PAPER.claims)
    section = text.removeprefix("# Claims\n\n")
    assert f"## Claims\n\n{section.strip()}" in (tmp_path / "out" / "report.md").read_text()
    rows = list(csv.DictReader((tmp_path / "out" / "tables" / "claims.csv").open()))
    assert {row["claim"] for row in rows} == set(CLAIMS)
    assert {
        "verdict",
        "part",
        "outcome",
        "value",
        "low",
        "high",
        "low_test",
        "high_test",
        "p",
        "preset",
        "data",
    } <= set(rows[0])
    assert "Claim 1, linear cost" in (tmp_path / "out" / "report.html").read_text()
    assert str(tmp_path) not in text


def test_what_construction_forbids_is_said_only_where_the_figures_show_it():
    site = ("recall", "probe", "noncausal_cross", "accuracy", True)

    def text(ours):
        levels = {"softmax": 99.0, "performer": 70.0, "lavo": ours, "none": 2.0}
        records = [*cells(site, levels), *(r for one in CROSS for r in site_records(one, 0.8))]
        return render_markdown("Claims", page(records, ()))

    assert "lavo keeps 1 % of the lead of softmax over none. The question names a key" in text(3.0)
    found = text(60.0)
    assert "lavo keeps 60 % of the lead of softmax over none. This table doesn't show the limit" in found
    assert "The question names a key" not in found


# --- claims of others


OWN = """\
attention: my_att
claims:
  - name: better
    claim: Mine is the best linear attention in forecasting.
    source: this file
    sites: {parts: {decoder: [{task: forecasting, backbone: informer, pattern: causal_self}]}}
"""


def test_anyone_can_state_claims_about_an_attention(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN)
    small_results(tmp_path / "quick")
    answer = lavo_bench("report", tmp_path / "quick", "-o", tmp_path / "out", "--claims", tmp_path / "mine.yaml")
    assert answer.status == 0
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "1 claim about my\\_att: 1 undecided at this scale" in text
    assert "my\\_att − lavo" in text  # LAVO is one of its rivals
    assert "linear cost" not in text  # the paper's claims are not judged
    before = (tmp_path / "out" / "report.html").stat().st_mtime_ns
    (tmp_path / "mine.yaml").write_text(OWN.replace("Mine is", "Ours is"))
    assert (
        lavo_bench("report", tmp_path / "quick", "-o", tmp_path / "out", "--claims", tmp_path / "mine.yaml").status == 0
    )
    assert (tmp_path / "out" / "report.html").stat().st_mtime_ns > before  # a changed claim makes the report again


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("claims:", "claim:"), "unknown key 'claim'"),
        (("    source: this file\n", ""), "claims.0.source is missing"),
        (("sites: {parts", "site: {parts"), "unknown key 'site'"),
        (("    sites:", "    slower: {than: flash}\n    sites:"), "exactly one rule of growth"),
        (("name: better", "name: Better!"), "claims.0.name = 'Better!'"),
        (("pattern: causal_self}", "patern: causal_self}"), "unknown key 'patern'"),
    ],
)
def test_a_damaged_file_of_claims_is_one_line_with_file_and_key(tmp_path, change, said):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN.replace(*change))
    with pytest.raises(ConfigError) as caught:
        read_claims(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_claims_ends_the_command_with_status_2(tmp_path):
    small_results(tmp_path / "quick")
    answer = lavo_bench("report", tmp_path / "quick", "-o", tmp_path / "out", "--claims", tmp_path / "no.yaml")
    assert answer.status == 2
    assert "no.yaml: no such file" in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_each_rule_is_used_by_the_papers_claims_and_explained():
    used = {name for claim in PAPER.claims for name in RULES if getattr(claim, name) is not None}
    assert used == set(RULES)
    page = (DEFAULT.parents[1] / "docs" / "claims.md").read_text()
    assert all(f"`{name}`" in page for name in RULES)
    assert f"{LINEAR:.2f}" in page
    assert f"{RANGE} times" in page

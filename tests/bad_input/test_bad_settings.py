"""Values of ``--set`` that no setting takes, and folders that can't be used."""

from __future__ import annotations

import os

import pytest
from command_line import lavo_bench
from refused import assert_refused, cases, write

SETTINGS = {
    "key without a group": ("steps=3", "unknown key 'steps'", "train.steps"),
    "key of no setting": ("train.stepz=3", "'stepz' of train", "did you mean steps?", "batch_size"),
    "group misspelt": ("trian.steps=3", "'trian.steps'", "did you mean train?"),
    "no equals sign": ("train.steps", "must be key=value"),
    "no key": ("=3", "must be key=value"),
    "colon for an equals sign": ("train.steps: 3", "must be key=value"),
    "value below the least": ("train.steps=0", "train.steps = 0", "greater than or equal to 1"),
    "negative value": ("train.steps=-1", "train.steps = -1", "greater than or equal to 1"),
    "fraction for a whole number": ("train.steps=1.5", "train.steps = 1.5", "whole number"),
    "text for a whole number": ("train.steps=many", "'many'", "whole number"),
    "list for a number": ("train.steps=[1]", "[1]", "whole number"),
    "mapping for a number": ("train.steps={a: 1}", "{'a': 1}", "whole number"),
    "yes for a number": ("train.steps=yes", "True", "number"),
    "nothing for a number": ("train.steps=", "train.steps = ''", "whole number"),
    "parallel in no known way": ("train.parallel=both", "train.parallel = 'both'", "'data', 'fsdp' or 'sequence'"),
    "neither steps nor epochs": ("train.steps=null", "steps None and epochs None", "exactly one"),
    "both steps and epochs": ("train.epochs=2", "steps 20 and epochs 2", "exactly one"),
    "NaN": ("train.learning_rate=.nan", "nan", "finite number"),
    "NaN as users write it": ("train.learning_rate=nan", "nan", "finite number"),
    "infinity": ("train.learning_rate=-.inf", "-inf", "finite number"),
    "number beyond double precision": ("train.learning_rate=1e999", "inf", "finite number"),
    "negative rate": ("train.learning_rate=-1e-3", "-0.001", "greater than 0"),
    "list that is too short": ("train.betas=[0.9]", "train.betas.1", "missing"),
    "number for a list": ("train.betas=0.9", "train.betas = 0.9", "must be a list"),
    "list whose values are out of range": ("train.betas=[0.9,1.0]", "[0.9, 1.0]", "from 0 to below 1"),
    "choice that isn't one": ("train.optimizer=sgd", "'sgd'", "'adam' or 'adamw'"),
    "choice misspelt": ("train.schedule=cosin", "'cosin'", "'cosine'"),
    "number for a choice": ("train.precision=16", "16", "'float32', 'bfloat16' or 'float16'"),
    "share above one": ("train.final_ratio=2", "2", "less than or equal to 1"),
    "more warm-up than steps": ("train.warmup_steps=100", "warmup_steps 100 is more than steps 20"),
    "group as a value": ("train=3", "must name a setting inside"),
    "value as a group": ("train.steps.more=3", "steps is a value, 20"),
    "key with a hole": ("train..steps=3", "must name a setting inside"),
    "value that isn't YAML": ("train.betas=[0.9", "not valid YAML"),
    "width that heads don't divide": ("model.embed_dim=33", "embed_dim 33 is not a multiple of num_heads 2"),
    "dropout of everything": ("model.dropout=1", "model.dropout = 1", "less than 1"),
    "unknown positions": ("model.positions=alibi", "'alibi'", "'sinusoidal', 'learned', 'rotary' or 'none'"),
    "unknown tokens": ("data.tokens=letters", "'letters'", "'auto', 'bytes', 'words', 'bpe', 'gpt2'"),
    "tokens that need a data root": ("data.tokens=gpt2", "data.tokens gpt2", "data root", "bytes, bpe"),
    "blocks longer than any text": ("data.context_length=100000", "data.context_length 100000", "data.excerpt_bytes"),
    "lengths that don't grow": ("eval.lengths=[4,2]", "[4, 2]", "growing multiples"),
    "setting of another task": ("data.pred_len=3", "'pred_len' of data", "context_length"),
    "setting for a task that doesn't run": (
        "forecasting.train.steps=3",
        "forecasting is not among",
        "language_modeling",
    ),
    "task before a key misspelt": ("forecastin.train.steps=3", "did you mean forecasting?"),
    "task before no key": ("lm=3", "must name a setting inside"),
    "unknown key behind a task": ("lm.train.stepz=3", "'stepz' of train", "did you mean steps?"),
    "option of the command line as a setting": ("preset=quick", "unknown key 'preset'"),
    "unknown option of an attention": ("attentions.lavo.windw=3", "'windw'", "did you mean window?", "lavo has rank"),
    "option of an attention below the least": (
        "attentions.lavo.window=0",
        "window must be an integer of at least 1, got 0",
    ),
    "fraction for an option": ("attentions.lavo.window=1.5", "window = 1.5", "whole number"),
    "text for an option": ("attentions.lavo.window=big", "window = 'big'", "whole number"),
    "NaN for an option": ("attentions.lavo.window=.nan", "window = nan", "whole number"),
    "text for a switch": ("attentions.lavo.position_bias=maybe", "'maybe'", "true or false"),
    "number for a switch": ("attentions.lavo.dissect=3", "dissect = 3", "true or false"),
    "number for a word": ("attentions.lavo.basis=5", "basis = 5", "text"),
    "rank above the head's width": ("attentions.lavo.rank=17", "rank must be at most head_dim = 16, got 17"),
    "word that isn't one": ("attentions.lavo.output=jont", "'jont'", "joint, sum, memory"),
    "options that exclude each other": (
        "attentions.lavo.basis=none attentions.lavo.output=memory",
        "basis",
        "leaves only the windows",
    ),
    "backend that isn't there": ("attentions.lavo.backend=triton", "triton", '"torch"'),
    "option of an attention that doesn't run": ("attentions.softmax.x=3", "softmax is not among", "lavo"),
    "option of no attention": ("attentions.lavoo.window=3", "lavoo", "lavo"),
    "attention without an option": ("attentions.lavo=3", "attentions.NAME.OPTION"),
}


@cases(SETTINGS)
def test_a_wrong_setting_is_refused(case):
    texts, *words = case
    texts = [texts] if "{" in texts or ": " in texts else texts.split(" ")
    assignments = [part for text in texts for part in ("--set", text)]
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "lavo", "-o", "out", *assignments)
    assert_refused(answer, words)
    if (
        "attention lavo at" not in answer.err and "language_modeling: " not in answer.err
    ):  # refused before the data were read
        assert f"--set {texts[0].partition('=')[0]}" in answer.err


def test_a_longest_length_below_that_of_the_data_is_refused():
    answer = lavo_bench(
        "run", "lm", "--preset", "smoke", "-a", "cosformer", "--set", "attentions.cosformer.max_length=3"
    )
    assert_refused(answer, ["cosformer", "max_length 3", "up to 1024"])


OUTPUTS = {
    "output that is a table's name": (["-o", "x.json"], "-o x.json", "names a file (.json)", "a folder"),
    "output that is a file": (["-o", "plain"], "-o plain", "not a folder"),
    "output below a file": (["-o", "plain/below"], "-o plain/below", "Not a directory"),
    "output with a name too long": (["-o", "x" * 300], "xxx", "File name too long"),
    "cache that is a file": (["-o", "out", "--cache", "plain"], "--cache plain", "no folder can be made there"),
    "cache below a file": (["-o", "out", "--cache", "plain/x"], "--cache plain/x", "Not a directory"),
}


@cases(OUTPUTS)
def test_an_output_that_cannot_be_used_is_refused(case, tmp_path):
    arguments, *words = case
    write(tmp_path / "plain", "x")
    assert_refused(lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", *arguments), words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", "-o", "closed/out")
    assert_refused(answer, ["-o closed/out", "Permission denied"])

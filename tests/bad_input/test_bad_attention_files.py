"""Files of attentions (``--include-path``) that can't be loaded, and attentions that can't be built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import lavo_bench
from refused import NAME_RULE, PATTERNS, assert_refused, cases, write

from benchmark import registry

HEAD = "from benchmark import register_attention\nfrom torch import nn\n"
BODY = "class A(nn.Module):\n    version = 1\n    unsupported = {}\n"

INCLUDED = {
    "file that raises": ("1 / 0\n", "ZeroDivisionError", "division by zero"),
    "file that is no Python": ("def f(:\n", "SyntaxError", "line 1"),
    "file that ends the program": ("import sys; sys.exit(3)\n", "ends the program"),
    "file that ends the program with a text": ("import sys; sys.exit('no GPU')\n", "ends the program", "no GPU"),
    "file that ends the program at once": ("import os; os._exit(3)\n", "ends the program", "os._exit"),
    "file that aborts": ("import os; os.abort()\n", "ends the program"),
    "file that copies the process": ("import os; os.fork()\n", "RuntimeError", "must not copy the process"),
    "file that raises no Exception": ("class Odd(BaseException): pass\nraise Odd('x')\n", "Odd: x"),
    "file that closes a generator": ("raise GeneratorExit\n", "GeneratorExit"),
    "file that raises a novel": ("raise ValueError('word ' * 100_000)\n", "ValueError: word word"),
    "file that raises control signs": ("raise ValueError(chr(27) + '[31m' + chr(0x2028))\n", "\\x1b[31m"),
    "file that never stops calling itself": ("def f(): f()\nf()\n", "RecursionError"),
    "file that wants all memory": ("bytearray(1 << 60)\n", "MemoryError"),
    "file with a NUL": (b"x = 1\x00\n", "null bytes"),
    "file that registers and then fails": (f"{HEAD}@register_attention('half')\n{BODY}1 / 0\n", "ZeroDivisionError"),
    "file that registers and then ends": (f"{HEAD}@register_attention('half')\n{BODY}exit(3)\n", "ends the program"),
    "version that is true": (f"{HEAD}@register_attention('v')\n{BODY.replace('1', 'True', 1)}", "A.version"),
    "declaration that is a list": (f"{HEAD}@register_attention('u')\n{BODY.replace('{}', '[]')}", "A.unsupported"),
    "function for a class": (f"{HEAD}@register_attention('f')\ndef f(): pass\n", "f.version"),
    "number for a class": (f"{HEAD}register_attention('n')(3)\n", "--include-path"),
    "file that isn't UTF-8": ("x = 'é'\n".encode("latin-1"), "SyntaxError"),
    "file that imports what isn't there": (
        "import nowhere_to_be_found\n",
        "ModuleNotFoundError",
        "nowhere_to_be_found",
    ),
    "file that registers nothing": ("x = 1\n", "registers no attention", "@register_attention"),
    "name with a slash": (f"{HEAD}@register_attention('a/b')\n{BODY}", "'a/b'", NAME_RULE),
    "name in capitals": (f"{HEAD}@register_attention('Mine')\n{BODY}", "'Mine'", NAME_RULE),
    "name of nothing": (f"{HEAD}@register_attention('')\n{BODY}", "''", NAME_RULE),
    "name too long": (f"{HEAD}@register_attention('a' * 65)\n{BODY}", "aaa", "at most 64"),
    "name that is a number": (f"{HEAD}@register_attention(3)\n{BODY}", "attention 3", NAME_RULE),
    "decorator without a name": (f"{HEAD}@register_attention\n{BODY}", NAME_RULE),
    "name that is taken": (f"{HEAD}@register_attention('lavo')\n{BODY}", "'lavo'", "choose another"),
    "name given twice": (
        f"{HEAD}@register_attention('tw')\n{BODY}@register_attention('tw')\nclass B(A): pass\n",
        "'tw'",
        "choose another",
    ),
    "no version": (
        f"{HEAD}@register_attention('v')\nclass A(nn.Module):\n    unsupported = {{}}\n",
        "A.version",
        "whole",
    ),
    "no declaration of patterns": (
        f"{HEAD}@register_attention('u')\nclass A(nn.Module):\n    version = 1\n",
        "A.unsupported",
        PATTERNS,
    ),
    "declaration of an unknown pattern": (
        f"{HEAD}@register_attention('p')\nclass A(nn.Module):\n    version = 1\n    unsupported = {{'causal': 'no'}}\n",
        "A.unsupported",
        PATTERNS,
    ),
}


@cases(INCLUDED)
def test_a_wrong_file_of_attentions_is_refused(case, tmp_path):
    content, *words = case
    path = write(tmp_path / "mine.py", content)
    before = registry.attention_names()
    answer = lavo_bench("list", "attentions", "--include-path", path)
    assert_refused(answer, ["--include-path mine.py", *words])
    assert len(answer.err) <= 320
    assert registry.attention_names() == before


@pytest.mark.parametrize("name", ["gone.py", "notes.txt", "."], ids=["not there", "not Python", "a folder"])
def test_a_path_that_is_no_python_file_is_refused(name, tmp_path):
    write(tmp_path / "notes.txt", "x")
    assert_refused(lavo_bench("list", "--include-path", name), ["--include-path", "not a Python file"])


CONSTRUCTORS = {
    "constructor without the protocol's arguments": ("def __init__(self):", "super().__init__()", "'pattern'"),
    "constructor that raises": (
        "def __init__(self, *, pattern, num_heads, head_dim):",
        "raise KeyError('x')",
        "KeyError",
    ),
}


@cases(CONSTRUCTORS)
@pytest.mark.usefixtures("own_registry")
def test_an_attention_that_cannot_be_built_is_refused(case, tmp_path):
    signature, body, word = case
    path = write(tmp_path / "mine.py", f"{HEAD}@register_attention('mine')\n{BODY}    {signature}\n        {body}\n")
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "mine", "--include-path", path, "-o", "out")
    assert_refused(answer, ["attention mine at causal_self of gpt", word])


AT_IMPORT = """
import os, random, sys, warnings
import numpy, torch
os.chdir("/")
os.environ["LAVO_BENCH_DATA"] = os.environ["HOME"] = os.environ["LAVO_BENCH_CACHE"] = "/nowhere"
os.umask(0o777)
torch.set_default_dtype(torch.float16)
torch.set_grad_enabled(False)
torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
print("x" * 10_000_000)
"""


@pytest.mark.usefixtures("own_registry")
def test_what_a_file_does_to_the_process_when_it_is_read_is_undone(tmp_path):
    import torch

    path = write(tmp_path / "mine.py", f"{AT_IMPORT}{HEAD}@register_attention('mine')\n{BODY}")
    before, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    answer = lavo_bench("list", "attentions", "--include-path", path)
    assert answer.status == 0
    assert "mine" in answer.out
    assert "xxx" not in answer.out
    assert Path.cwd() == tmp_path
    assert dict(os.environ) == before
    assert os.umask(mask) == mask
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_file_that_never_ends_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "READING_SECONDS", 0.5)
    path = tmp_path / "endless.py"
    path.write_text("while True: pass\n")
    answer = lavo_bench("list", "attentions", "--include-path", path)
    assert answer.status == 2
    assert "endless.py: TimeoutError: it is still being read after 0.5 s" in answer.err
    assert os.fork.__module__ in ("posix", None)  # everything is as it was before

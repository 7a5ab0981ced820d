"""Classes given in Python: which source is copied, what is refused, and that the copy is the same attention."""

from __future__ import annotations

import importlib.util
import linecache
import sys
from types import ModuleType

import pytest
import torch

from benchmark import UsageError, registry
from benchmark.api.classes import by_name, register_class
from benchmark.api.definitions import snake_case, standing_alone

MODULE = '''
import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor, matmul, nn
from torch.nn import functional as F

import helpers
from helpers import shift

SCALE, NEVER_USED = 2.0, object()
SUMS = torch.float32
TABLE = torch.ones(3)
square = lambda x: x * x


@functools.lru_cache
def factor(power):
    """Cached."""
    return SCALE**power


def phi(x: Tensor) -> Tensor:
    # A comment of phi.
    return square(F.elu(x) + 1) * factor(2) * math.pi + shift(0)


def unused(x):
    return x


class Base(nn.Module):
    version = 1
    unsupported = {"causal_self": "no extend()", "causal_cross": "no read()"}

    def __init__(self, *, pattern: str, num_heads: int, head_dim: int, kind: Literal["a", "b"] = "a") -> None:
        super().__init__()


class MyAttention(Base):
    @property
    def features(self):
        return phi

    def forward(self, q: Any, k: Any, v: Any, key_padding_mask: Tensor | None = None) -> Tensor:
        q, k = self.features(q.to(SUMS)), phi(k)
        return matmul(q, k.mT @ v) / q.matmul(k.sum(2)[..., None])


class Inheriting(MyAttention):
    version = 2


class UsesATensor(Base):
    def forward(self, q, k, v, key_padding_mask=None):
        return v * TABLE


class UsesNothingKnown(Base):
    def forward(self, q, k, v, key_padding_mask=None):
        return forgotten(v)


def inside():
    weight = 3

    class Inner(Base):
        def forward(self, q, k, v, key_padding_mask=None):
            return v * weight

    return Inner
'''


def module_of(text: str, path, monkeypatch, name: str = "a_users_module") -> ModuleType:
    """The module of a file with this text, which is imported as a user's script would be."""
    path.write_text(text, encoding="utf-8")
    linecache.checkcache(str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    exec(
        compile(text, str(path), "exec", dont_inherit=True), module.__dict__
    )  # no .pyc, which could be of another text
    return module


@pytest.fixture
def users(tmp_path, monkeypatch):
    """The module above, beside a module ``helpers`` that is not installed."""
    module_of("def shift(x):\n    return x\n", tmp_path / "helpers.py", monkeypatch, "helpers")
    return module_of(MODULE, tmp_path / "users.py", monkeypatch)


def run_alone(text: str, name: str):
    """The class that the text defines in an empty module."""
    names: dict = {"__name__": "alone"}
    exec(compile(text, "<alone>", "exec", dont_inherit=True), names)
    return names[name]


def test_the_copy_computes_the_same_and_holds_only_what_is_used(users):
    text = standing_alone(users.MyAttention)
    sizes = {"pattern": "noncausal_self", "num_heads": 2, "head_dim": 4}
    q, k, v = torch.rand(3, 1, 2, 5, 4)
    expected = users.MyAttention(**sizes)(q, k, v)
    assert torch.equal(run_alone(text, "MyAttention")(**sizes)(q, k, v), expected)
    assert expected.isfinite().all()
    assert "unused" not in text
    assert "NEVER_USED" not in text
    assert "# A comment of phi." in text
    for line in ("import math", "import torch.nn.functional as F", "SCALE = 2.0", "square = lambda x: x * x"):
        assert line in text.splitlines()
    assert "# Imported, and not copied: helpers, SHA-256" in text


def test_a_class_that_only_inherits_is_copied_with_its_bases(users):
    assert run_alone(standing_alone(users.Inheriting), "Inheriting").version == 2


@pytest.mark.parametrize(
    ("before", "after", "is_another"),
    [
        ("SCALE, NEVER_USED = 2.0", "SCALE, NEVER_USED = 2.5", True),
        ("square = lambda x: x * x", "square = lambda x: x * x * x", True),
        ("return SCALE**power", "return SCALE ** (power + 1)", True),
        (
            'version = 1\n    unsupported = {"causal_self": "no',
            'version = 1\n    unsupported = {"causal_self": "has no',
            True,
        ),
        ("def unused(x):\n    return x", "def unused(x):\n    return -x", False),
    ],
)
def test_the_text_changes_with_what_the_class_uses(users, tmp_path, monkeypatch, before, after, is_another):
    assert before in MODULE
    changed = module_of(MODULE.replace(before, after), tmp_path / "changed.py", monkeypatch)
    assert (standing_alone(changed.MyAttention) != standing_alone(users.MyAttention)) == is_another


def test_the_text_changes_with_a_file_beside_the_script(users, tmp_path, monkeypatch):
    before = standing_alone(users.MyAttention)
    (tmp_path / "helpers.py").write_text("def shift(x):\n    return x + 1\n", encoding="utf-8")
    assert standing_alone(users.MyAttention) != before


def test_future_annotations_are_kept_where_the_module_has_them(tmp_path, monkeypatch):
    text = "class Late:\n    def forward(self, q: NotThereYet):\n        return q\n"
    future = module_of("from __future__ import annotations\n" + text, tmp_path / "late.py", monkeypatch)
    assert standing_alone(future.Late).startswith("from __future__ import annotations\n")
    run_alone(standing_alone(future.Late), "Late")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UsesATensor", "UsesATensor uses the global 'TABLE', a Tensor, whose value is not in its source"),
        ("UsesNothingKnown", "uses the name 'forgotten', which its module doesn't define"),
    ],
)
def test_a_value_that_is_not_in_the_source_is_refused_in_one_line(users, name, words):
    with pytest.raises(UsageError, match=words) as error:
        standing_alone(getattr(users, name))
    assert "\n" not in str(error.value)


def test_a_class_inside_a_function_that_uses_its_variables_is_refused(users):
    with pytest.raises(UsageError, match="uses the name 'weight'"):
        standing_alone(users.inside())


def test_a_class_without_source_is_refused():
    made = type("Made", (torch.nn.Module,), {"version": 1, "unsupported": {}})
    with pytest.raises(UsageError, match="Made has no source that can be read"):
        standing_alone(made)
    names: dict = {"__name__": "typed_in"}
    exec("class TypedIn:\n    def forward(self):\n        pass\n", names)
    with pytest.raises(UsageError, match="TypedIn has no source that can be read"):
        standing_alone(names["TypedIn"])


def test_a_cell_of_a_notebook_is_source(monkeypatch):
    """A kernel keeps the text of each cell in ``linecache`` and runs all cells in one module without a file."""
    notebook = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)

    def cell(number: int, text: str) -> None:
        name = f"/tmp/ipykernel_1/{number}.py"
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
        exec(compile(text, name, "exec", dont_inherit=True), notebook.__dict__)

    cell(1, "from torch import nn\n\ndef phi(x):\n    return x + 1\n")
    cell(2, "class Mine(nn.Module):\n    def forward(self, q):\n        return phi(q)\n")
    cell(3, "class Plain(Mine):\n    version = 1\n")
    assert "def phi" in standing_alone(notebook.Mine)
    assert "return x + 1" in standing_alone(notebook.Plain)
    cell(4, "def phi(x):\n    return x + 2\n")
    assert "return x + 2" in standing_alone(notebook.Mine)


@pytest.mark.usefixtures("own_registry")
def test_a_class_is_registered_by_its_source(users, tmp_path, monkeypatch):
    named = by_name(["lavo", users.MyAttention, {"name": users.Inheriting, "label": "second"}], tmp_path / "out")
    assert named.attentions == ["lavo", "my_attention", {"name": "inheriting", "label": "second"}]
    first = registry.included_digest("my_attention")
    assert by_name([users.MyAttention], tmp_path / "out").files == named.files[:1]
    assert _phi_of_the_registered() == pytest.approx(users.phi(torch.tensor(1.0)).item())
    assert registry.included_digest("my_attention") == first
    changed = module_of(MODULE.replace("= 2.0", "= 4.0"), tmp_path / "changed.py", monkeypatch)
    by_name([changed.MyAttention], tmp_path / "out")
    assert registry.included_digest("my_attention") not in (first, None)
    assert _phi_of_the_registered() == pytest.approx(changed.phi(torch.tensor(1.0)).item())
    by_name([users.MyAttention], tmp_path / "out")  # the earlier version again
    assert registry.included_digest("my_attention") == first
    assert _phi_of_the_registered() == pytest.approx(users.phi(torch.tensor(1.0)).item())
    assert users.phi(torch.tensor(1.0)).item() != changed.phi(torch.tensor(1.0)).item()
    assert len(list((tmp_path / "out" / "sources").glob("my_attention.*.py"))) == 2


def _phi_of_the_registered() -> float:
    sizes = {"pattern": "noncausal_self", "num_heads": 1, "head_dim": 1}
    return registry.load_attention("my_attention")(**sizes).features(torch.tensor(1.0)).item()


@pytest.mark.usefixtures("own_registry")
def test_a_class_of_the_table_keeps_its_name_and_a_taken_name_is_refused(tmp_path, users):
    cls = registry.load_attention("softmax")
    assert by_name([cls], tmp_path).attentions == ["softmax"]
    assert by_name([cls], tmp_path).files == []
    users.Softmax = type(users.MyAttention)("Softmax", (users.MyAttention,), {"__module__": users.__name__})
    with pytest.raises(
        UsageError, match="attention 'softmax': there already is one of this name; rename the class Softmax"
    ):
        register_class(users.Softmax, tmp_path)
    with pytest.raises(UsageError, match="must be a name or a class"):
        by_name([3], tmp_path)


@pytest.mark.usefixtures("own_registry")
def test_a_decorated_class_keeps_its_name(tmp_path, monkeypatch):
    text = (
        "from torch import nn\nfrom benchmark import register_attention\n\n\n"
        "@register_attention('called_so')\nclass Decorated(nn.Module):\n    version, unsupported = 1, {}\n\n"
        "    def __init__(self, *, pattern, num_heads, head_dim):\n        super().__init__()\n"
    )
    module = module_of(text, tmp_path / "decorated.py", monkeypatch)
    (path,) = by_name(["called_so"], tmp_path / "out").files
    assert "@register" not in path.read_text()
    assert by_name([module.Decorated], tmp_path / "out").files == [path]
    assert by_name(["all"], tmp_path / "out").attentions == ["all"]


def test_names_of_classes():
    names = ["MyAttention", "LAVO2D", "HTTPLinear", "already_snake"]
    assert [snake_case(name) for name in names] == ["my_attention", "lavo2d", "http_linear", "already_snake"]

"""The package as a user installs it: the wheel in an empty folder, and what works without the packages of an extra."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import benchmark

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("lavo", "baselines", "tasks", "benchmark", "studies", "lavo_fairseq")

# What torch imports by itself; torch brings them.
OF_TORCH = [
    *(
        "torch",
        "torchgen",
        "functorch",
        "numpy",
        "einops",
        "typing_extensions",
        "sympy",
        "mpmath",
        "networkx",
        "jinja2",
    ),
    *("markupsafe", "filelock", "fsspec", "cuda", "nvidia"),
]

# triton seems to be there and can't be imported, as its old releases where setuptools is missing.
REFUSING = """
import sys
from importlib.machinery import ModuleSpec
class Refusing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top.startswith("_sysconfigdata") or top in {allowed!r}:
            return None
        if top == "triton":
            return ModuleSpec(name, self)
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    def create_module(self, spec):
        raise ModuleNotFoundError("No module named 'setuptools'", name="setuptools")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refusing())
"""


def python_with(packages, code):
    """Runs code in a new Python that can import these packages alone, this project, and the standard library."""
    program = REFUSING.format(allowed=[*PACKAGES, *packages]) + code
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def lavo_bench_with(packages, *arguments):
    return python_with(packages, f"sys.argv = ['lavo-bench', *{arguments!r}]\nfrom benchmark.cli import main\nmain()")


def installed_without(package):
    """All packages of this environment but one."""
    from importlib.metadata import packages_distributions

    return [name for name in packages_distributions() if name != package]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    installer = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:
        if shutil.which("uv") is None:
            pytest.skip("neither pip nor uv is here to install a wheel")
        installer = ["uv", "pip", "--python", sys.executable]
    command = [*installer, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return target


@pytest.fixture
def call(installed, tmp_path):
    """Runs a command of the installed wheel in an empty folder; returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAVO_BENCH_", "PYTEST_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(installed),
        "PATH": os.pathsep.join([str(installed / "bin"), os.environ["PATH"]]),
        "LAVO_BENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "empty").mkdir()

    def run(*command, status=0):
        done = subprocess.run(
            command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_wheel_has_what_is_read_at_run_time_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"lavo_bench-{benchmark.__version__}.dist-info"}
    wanted = {f"{folder}/py.typed" for folder in ("lavo", "baselines", "tasks", "benchmark")}
    wanted |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tasks/*/*.yaml")}
    wanted |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tasks/*/PROTOCOL.md")}
    templates = (path for path in (ROOT / "benchmark" / "report" / "templates").rglob("*") if path.is_file())
    wanted |= {path.relative_to(ROOT).as_posix() for path in templates}
    wanted |= {f"benchmark/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(wanted) > 25
    assert wanted <= names
    assert not [name for name in names if name.endswith((".pyc", ".json", ".gz", ".png")) or "/tests/" in name]


def test_the_metadata_name_the_version_the_licence_and_the_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(path))
    assert metadata["Version"] == benchmark.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    needed = {re.split(r"[<>=!\[; ]", one)[0] for one in metadata.get_all("Requires-Dist") if "extra ==" not in one}
    assert needed == {"torch", "numpy", "einops"}
    assert {"bench", "docs", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["version"] == benchmark.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"message", "title", "authors"} <= citation.keys()
    assert [one["url"] for one in citation["references"]] == ["https://arxiv.org/abs/2312.11135"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_installed_wheel_lists_runs_and_reports_in_an_empty_folder(call, installed, tmp_path):
    place = call(sys.executable, "-c", "import benchmark, tasks; print(benchmark.__file__, tasks.__file__)")
    assert place.split() == [str(installed / "benchmark" / "__init__.py"), str(installed / "tasks" / "__init__.py")]
    assert call("lavo-bench", "--version") == f"lavo-bench {benchmark.__version__}\n"
    assert "performer" in call("lavo-bench", "list")
    call("lavo-bench", "run", "forecasting", "-a", "lavo", "--preset", "smoke", "--pattern", "causal_self")
    (record,) = (tmp_path / "empty" / "results" / "smoke").rglob("*.s0.*.json")
    read = json.loads(record.read_text(encoding="utf-8"))
    assert (read["status"], read["environment"]["commit"]) == ("completed", None)
    call("lavo-bench", "report", "results/smoke")
    assert "forecasting" in (tmp_path / "empty" / "reports" / "smoke" / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_installed_wheel_finds_the_files_of_configs(call, tmp_path):
    assert "valid" in call("lavo-bench", "validate", "configs/ablations.yaml")
    assert "absent.yaml" in call("lavo-bench", "validate", "configs/absent.yaml", status=2)
    code = """
from benchmark.settings import tuned
shipped = tuned.read_rates()
one = shipped.files[0]
tuned.write_tuned(tuned.file_of(tuned.writing_folder(), one.task, one.preset), one)
print(len(shipped.files), len(tuned.read_rates().files), *{file.task for file in shipped.files})
"""
    shipped, both, *tasks = call(sys.executable, "-c", code).split()
    assert int(shipped) == len(list((ROOT / "configs" / "tuned").glob("*.yaml"))) == int(both) - 1
    assert {"forecasting", "recall"} <= set(tasks)
    assert len(list((tmp_path / "empty" / "configs" / "tuned").glob("*.yaml"))) == 1


EVERY_ATTENTION = """
import torch
from benchmark import MultiHeadAttention
from benchmark.interface import PATTERNS
from benchmark.registry import ATTENTIONS, load_attention, takes_max_length
from lavo import LAVOAttention, lavo_attention
built = 0
for name in ATTENTIONS:
    cls = load_attention(name)
    options = {"max_length": 16} if takes_max_length(cls) else {}
    for pattern in set(PATTERNS) - set(cls.unsupported):
        x = torch.randn(2, 16, 32)
        out = MultiHeadAttention(32, 4, name, pattern=pattern, **options)(x, *([x] if "cross" in pattern else []))
        assert out.shape == x.shape
        out.sum().backward()
        built += 1
print(built)
"""


def test_torch_numpy_and_einops_are_enough_for_every_attention():
    done = python_with(OF_TORCH, EVERY_ATTENTION)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_and_version_need_the_standard_library_alone(arguments):
    done = lavo_bench_with([], *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"lavo-bench {benchmark.__version__}" if "--version" in arguments else "Usage:")


@pytest.mark.parametrize("command", ["run", "check", "report", "list"])
def test_a_command_without_its_packages_says_in_one_line_what_to_install(command):
    done = lavo_bench_with(OF_TORCH, command, "lavo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'lavo-bench: lavo-bench {command} needs typer: pip install "lavo-bench[bench]"\n'


@pytest.mark.parametrize(
    ("package", "arguments", "user"),
    [
        ("pandas", ("run", "forecasting", "-a", "lavo", "--preset", "smoke"), "forecasting"),
        ("timm", ("run", "pcc", "-a", "lavo", "--preset", "smoke"), "point_cloud_completion"),
        ("torchaudio", ("run", "tts", "-a", "lavo", "--preset", "smoke"), "text_to_speech"),
        ("einops", ("check", "lavo"), "lavo-bench check"),
        ("scipy", ("compare", str(ROOT / "results" / "quick"), "-a", "softmax,lavo"), "lavo-bench compare"),
    ],
)
def test_one_missing_package_is_named_with_who_needs_it(package, arguments, user, tmp_path):
    done = lavo_bench_with(
        installed_without(package), *arguments, *(["-o", str(tmp_path)] if "run" in arguments else [])
    )
    assert (done.returncode, done.stdout) == (2, "")
    where = "lavo-bench" if package == "einops" else '"lavo-bench[bench]"'
    assert done.stderr == f"lavo-bench: {user} needs {package}: pip install {where}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_requirements_that_the_readers_of_messages_are_told_are_the_projects():
    from benchmark.extras import CORE, FIRST_EXTRA

    assert {re.split(r"[<>=!\[; ]", one)[0] for one in PROJECT["dependencies"]} == set(CORE)
    assert FIRST_EXTRA in PROJECT["optional-dependencies"]


def test_every_requirement_is_pinned_inside_its_range_with_a_reason():
    pins = re.findall(
        r"^([\w.-]+)==(\S+) +# (.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    versions = {name: version for name, version, _ in pins}
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert len(lines) == len(versions) > 100
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    wanted = [*PROJECT["dependencies"]]
    wanted += [
        one
        for extra, some in PROJECT["optional-dependencies"].items()
        if extra not in ("flash", "trackio")
        for one in some
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != "lavo-bench":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert versions["torch"].startswith("2.11")  # of the committed records


def test_both_commands_install_what_is_pinned():
    text = (ROOT / ".ci" / "environment.sh").read_text(encoding="utf-8")
    installs = re.findall(r"pip install(?:.*\\\n)*.*", text)
    assert (
        len([one for one in installs if "-c constraints.txt -e" in one])
        == 2
        == len([one for one in installs if " -e " in one])
    )
    for script in ("run_all.sh", "run_tests.sh"):
        assert ". .ci/environment.sh\nprepare_environment" in (ROOT / script).read_text(encoding="utf-8")

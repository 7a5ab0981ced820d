"""All commands of docs/fairseq.md run, in their order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from fairseq_commands import ROOT, command

from benchmark import cli


@pytest.fixture(scope="module")
def commands():
    """The commands of the bash blocks, with continued lines joined."""
    text = (ROOT / "docs" / "fairseq.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_the_commands_of_the_docs_run(commands, tmp_path, monkeypatch, capsys):
    for name in ("docs", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    printed = {}
    for line in commands:
        # The fixture has loaded the plug-in by its full path, and fairseq refuses a second path for it.
        here = line.replace("--user-dir lavo_fairseq", f"--user-dir {ROOT / 'lavo_fairseq'}")
        if line.startswith("fairseq-"):
            printed[line.split()[0]] = command(here)
        elif line.startswith("lavo-bench"):
            monkeypatch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code in (0, None), capsys.readouterr()
        else:
            subprocess.run(["bash", "-ec", line], check=True)
    assert printed["fairseq-interactive"].count("\nH-") >= 1
    generated = re.findall(r"^H-(\d+)", printed["fairseq-generate"], re.MULTILINE)
    assert len(generated) == len((tmp_path / "corpus" / "test.line").read_text(encoding="utf-8").splitlines())


def test_the_plug_in_is_found_by_its_name_from_the_checkout(lm_bin):
    arguments = f"{lm_bin} --user-dir lavo_fairseq --task language_modeling --arch attention_lm --batch-size 8 --cpu"
    code = "import sys; from fairseq_cli.train import cli_main; cli_main()"
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments.split(), "--attention", "lav"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stderr.splitlines()[-1].startswith("ValueError: attention 'lav': unknown (did you mean lavo?)")

"""docs/getting-started.md, from its model on, on the model that it names, as it stands there. `.ci/install.sh` runs how it installs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import run_cli
from tests.support.models import require_smollm2

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/getting-started.md").read_text(encoding="utf-8")
#: What each command line leaves: its exit code, and words that it prints.
SAID = {
    "check": (0, "nothing wrong found"),
    "run": (0, ""),
    "inspect": (0, ""),
    "audit": (1, "10000"),
    "diff": (1, "10000"),
}


def lines(section: str) -> list[str]:
    """The command lines of a section."""
    found = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r"^    (\S.*)$", re.sub(r"^```.*?^```$", "", found[1], flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def test_what_installs_is_what_continuous_integration_runs() -> None:
    """Each command is run by somebody: the clone's by `.ci/run`, the others by `.ci/install.sh`, the rest of the page below."""
    installs = [line.partition(" #")[0].strip() for line in lines("Install")]
    printed = subprocess.run([ROOT / ".ci/install_lines.sh"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == installs[2:]
    assert printed[0] == "python3 -m venv env"
    assert f"\n{installs[0]}\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert installs[1] == ". .venv/bin/activate"


def test_from_the_first_run_to_the_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not require_smollm2().is_relative_to(sys.prefix):
        pytest.skip(f"SmolLM2 does not come from the package in {sys.prefix}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    install, link = lines("A model")
    assert install.split()[-1] in (ROOT / "requirements-model.lock").read_text(encoding="utf-8")
    subprocess.run(["bash", "-c", link], check=True, cwd=tmp_path, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    commands = lines("First run")
    for command in commands:
        follow(command)
    assert {entry.layer for entry in Trace.open("ours")} == {0, 1, None}
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    said = [" ".join(follow(command).split()) for command in lines("My logits differ")]
    (shown,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert " ".join(shown.split()) in said[1]  # however the lines were broken
    assert "RoPE" in (tmp_path / "where.html").read_text(encoding="utf-8")


def follow(command: str) -> str:
    """Run a line of the page; what it printed."""
    program, *words = shlex.split(command, comments=True)
    assert program == "aprgraph"
    result = run_cli(*words)
    code, said = SAID[words[0]]
    assert result.code == code, (command, result)
    assert said in result.out, (command, result)
    return result.out

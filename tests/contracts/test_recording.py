"""The plugin and `aprgraph contracts`, on a small project of their own that a real pytest runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from aprgraph.cli.contracts import contracts
from aprgraph.contract_files import FOLDER, SCHEMA, find_gaps, load_contracts
from aprgraph.contract_results import RECORD
from aprgraph.graph.errors import AprgraphError
from tests.plugin_contracts import describe_commit

PLUGIN = Path(__file__).resolve().parents[1] / "plugin_contracts.py"
CONTRACT = """
id: SUM
title: Sums
statement: Numbers add up.
source: aprgraph.sums:add
falsifiers:
  - {id: SUM-PAIR-1, rule: Two and two are four., prediction: "2 + 2 == 4"}
  - {id: SUM-ZERO-1, rule: Zero changes nothing., prediction: "x + 0 == x"}
  - {id: SUM-HUGE-1, rule: Huge numbers add up as well., prediction: "2**64 + 1 is odd"}
"""
TESTS = """
import pytest

@pytest.mark.contract("SUM-PAIR-1")
def test_pair():
    assert 2 + 2 == 4

@pytest.mark.contract("SUM-ZERO-1")
@pytest.mark.parametrize("x", [1, 2])
def test_zero(x):
    assert x + 0 == x

@pytest.mark.contract("SUM-HUGE-1")
def test_huge():
    pytest.skip("no huge numbers here")

def test_something_else():
    pass
"""


@dataclass(frozen=True)
class Project:
    """A checkout with one contract and one file of tests; the plugin is its conftest."""

    root: Path
    captured: pytest.CaptureFixture[str]

    def edit(self, old: str, new: str) -> None:
        path = self.root / "tests/test_sums.py"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def pytest(self, *arguments: str) -> int:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        # Edits of the same second and size must not be hidden by compiled files.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, check=False).returncode

    def states(self) -> dict[str, str]:
        return {one["id"]: one["state"] for one in self.document()["contracts"][0]["falsifiers"]}

    def document(self) -> Any:
        return json.loads(self.command(as_json=True)[1])

    def command(self, *, run: bool = False, as_json: bool = False) -> tuple[int, str]:
        self.captured.readouterr()
        with pytest.raises(typer.Exit) as stopped:
            contracts(run=run, json=as_json)
        return stopped.value.exit_code, self.captured.readouterr().out

    def gaps(self) -> Sequence[str]:
        marks = self.root / "marks.json"
        assert self.pytest("--collect-only", f"--contract-marks={marks}", "tests") == 0
        return find_gaps(load_contracts(self.root), json.loads(marks.read_text()))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Project:
    for name, text in {
        f"{FOLDER}/{SCHEMA}": "{}",
        f"{FOLDER}/sum.yaml": CONTRACT,
        "tests/conftest.py": PLUGIN.read_text(encoding="utf-8"),
        "tests/test_sums.py": TESTS,
        "pytest.ini": "[pytest]\naddopts = --strict-markers\ntestpaths = tests\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # importing others' plugins is a third of what each start takes
    return Project(tmp_path, capfd)


def test_nothing_run_is_exit_3_and_collecting_is_not_running(project: Project) -> None:
    code, output = project.command()
    assert code == 3
    assert output.count("  not run ") == 3
    assert "no run is recorded; `aprgraph contracts --run`" in output
    assert project.pytest("--collect-only") == 0
    assert project.pytest("--setup-plan") == 0
    assert set(project.states().values()) == {"not run"}


def test_outcomes_become_states(project: Project) -> None:
    assert project.pytest() == 0
    assert project.states() == {"SUM-PAIR-1": "held", "SUM-ZERO-1": "held", "SUM-HUGE-1": "skipped"}
    code, output = project.command()
    assert code == 3, "what was skipped did not hold"
    assert "tests/test_sums.py::test_zero (2 passed)" in output
    assert "tests/test_sums.py::test_huge (1 skipped)" in output
    assert "3 falsifiers: 2 held, 1 skipped" in output
    project.edit('pytest.skip("no huge numbers here")', "assert (2**64 + 1) % 2")
    assert project.pytest("-k", "huge") == 0
    assert project.command()[0] == 0


def test_a_failing_test_falsifies_until_it_passes(project: Project) -> None:
    project.edit("assert x + 0 == x", "assert x + 0 == 1")
    assert project.pytest() == 1
    assert project.states() == {"SUM-PAIR-1": "held", "SUM-ZERO-1": "FALSIFIED", "SUM-HUGE-1": "skipped"}
    code, output = project.command()
    assert code == 1
    assert "  FALSIFIED  SUM-ZERO-1: Zero changes nothing." in output
    assert "predicted: x + 0 == x" in output
    assert "test_zero (1 passed, 1 failed)" in output
    assert "failed: tests/test_sums.py::test_zero[2]" in output
    # A partial run that leaves it out changes nothing about it.
    assert project.pytest("tests/test_sums.py::test_pair") == 0
    assert project.pytest("-k", "pair") == 0
    assert project.states()["SUM-ZERO-1"] == "FALSIFIED"
    project.edit("assert x + 0 == 1", "assert x + 0 == x")
    assert project.pytest("tests/test_sums.py::test_zero") == 0
    assert project.states()["SUM-ZERO-1"] == "held"


FAULTS = {
    "setup": ("def test_pair():", "def test_pair(no_such_fixture):"),
    "teardown": ("def test_pair():", "def test_pair(request):\n    request.addfinalizer(lambda: 1 / 0)"),
    "import": ("import pytest\n", "import pytest, no_such_module\n"),
    "expected failure": ("def test_pair():\n    assert 2 + 2 == 4", "@pytest.mark.xfail\ndef test_pair():\n    assert 2 + 2 == 5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_get_to_its_end_is_falsified(project: Project, fault: str) -> None:
    assert project.pytest() == 0
    project.edit(*FAULTS[fault])
    project.pytest()
    assert project.states()["SUM-PAIR-1"] == "FALSIFIED"


def test_a_test_that_is_gone_decides_nothing(project: Project) -> None:
    assert project.pytest() == 0
    project.edit("def test_pair", "def test_couple")
    assert project.pytest("-k", "zero") == 0
    assert project.states()["SUM-PAIR-1"] == "not run"
    (project.root / "tests/test_sums.py").rename(project.root / "tests/test_other.py")
    assert project.pytest("-k", "couple") == 0
    assert project.states() == {"SUM-PAIR-1": "held", "SUM-ZERO-1": "not run", "SUM-HUGE-1": "not run"}


def test_gaps_between_contracts_and_tests(project: Project) -> None:
    assert project.gaps() == []
    project.edit('"SUM-HUGE-1"', '"SUM-PAIR-1", "SUM-TINY-1"')
    assert project.gaps() == ["falsifier SUM-HUGE-1 has no test", "tests/test_sums.py::test_huge names SUM-TINY-1, which no contract has"]
    project.edit('"SUM-PAIR-1", "SUM-TINY-1"', "")
    assert "tests/test_sums.py::test_huge is marked and names no falsifier" in project.gaps()


def test_the_command_runs_the_marked_tests_alone(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.edit("def test_something_else():\n    pass", "def test_something_else():\n    open('ran', 'w').close()")
    with pytest.raises(typer.Exit) as stopped:
        contracts(run=True, json=True)
    out, err = capfd.readouterr()
    assert stopped.value.exit_code == json.loads(out)["exit_code"] == 3
    assert json.loads(out)["counts"] == {"held": 2, "skipped": 1}
    assert "3 passed, 1 skipped" in err
    assert not (project.root / "ran").exists()


def test_a_run_that_dies_leaves_no_older_result(project: Project) -> None:
    assert project.pytest() == 0
    project.edit("assert 2 + 2 == 4", "import os; os._exit(70)")
    with pytest.raises(AprgraphError, match=r"did not run through \(pytest's exit code 70\)"):
        contracts(run=True)
    assert set(project.states().values()) == {"not run"}


def test_results_carry_the_commit(project: Project) -> None:
    assert describe_commit(project.root) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "tests"], ["commit", "-q", "-m", "tests"]):
        subprocess.run(["git", *identity, *command], cwd=project.root, check=True)
    commit = describe_commit(project.root)
    assert commit is not None
    assert project.pytest("-k", "pair") == 0
    assert f"recorded at {commit}\n" in project.command()[1]
    project.edit("assert 2 + 2 == 4", "assert 4 == 2 + 2")
    assert f"recorded at {commit}; code, tests or contracts have changed since some of these ran\n" in project.command()[1]
    (pair, *_others) = project.document()["contracts"][0]["falsifiers"]
    assert pair["tests"] == [{"test": "tests/test_sums.py::test_pair", "outcome": "passed", "commit": commit}]


def test_listing_contracts_runs_nothing_that_the_checkout_names(project: Project, tmp_path: Path) -> None:
    """git would run the programs of a checkout's configuration, to say whether a file has changed."""
    assert project.pytest("-k", "pair") == 0
    told = tmp_path / "told"
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {told}\n")
    program.chmod(0o755)
    (project.root / ".gitattributes").write_text("* filter=planted\n")
    for command in (
        ["init", "-q"], ["add", "tests"], ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "tests"],
        ["config", "core.fsmonitor", str(program)], ["config", "filter.planted.clean", str(program)],
    ):  # fmt: skip
        subprocess.run(["git", "-c", "commit.gpgsign=false", *command], cwd=project.root, check=True)
    project.edit("assert 2 + 2 == 4", "assert 4 == 2 + 2")
    subprocess.run(["git", "describe", "--always", "--dirty"], cwd=project.root, check=False, capture_output=True)
    assert told.exists(), "the trap does not work"
    told.unlink()
    assert "changed since" in project.command()[1]
    assert not told.exists()


def test_a_folder_above_is_found_and_elsewhere_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root / "tests")
    assert project.command()[0] == 3
    (project.root / FOLDER / SCHEMA).unlink()
    with pytest.raises(AprgraphError, match="run this inside a checkout"):
        contracts()


@pytest.mark.parametrize("text", ["", "{}", '{"format": "x", "version": 1, "tests": {}}', "[]"])
def test_a_damaged_record_is_an_error_until_the_tests_run(project: Project, text: str) -> None:
    path = project.root / RECORD
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(AprgraphError, match="not a record of test runs"):
        contracts()
    if not text:
        assert project.pytest() == 0
        assert project.states()["SUM-PAIR-1"] == "held"

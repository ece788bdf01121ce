"""Defaults of options from pyproject.toml, and --quiet and --verbose."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import CompiledModel
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, run_cli

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no tomllib, and says that nothing is read")
TOKENS = "5,200,17"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder inside a project."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[project]\nname = 'x'\n{text}")


@pytest.mark.contract("PLAN-SETTINGS-1")
def test_what_is_not_given_is_of_the_file_and_said(tiny: CompiledModel, here: Path) -> None:
    write(here, "[tool.aprgraph.run]\nlayers = 'all'\ntaps = 'ffn_up'\n[tool.aprgraph.diff]\ntop = 3\ntol = ['ffn_up=nmse:1e-6']\n")
    done = run_cli("run", tiny.artifact.directory, "--tokens", TOKENS, "-o", "t")
    assert (done.code, done.err) == (0, f"note: options that are not given are those of [tool.aprgraph] in {here / 'pyproject.toml'}\n")
    assert {entry.layer for entry in Trace.open("t").entries} == {0, 1, 2}
    assert run_cli("run", tiny.artifact.directory, "--tokens", TOKENS, "-o", "t", "--layers", "1", "-q").err == ""
    assert {entry.layer for entry in Trace.open("t").entries} == {1}
    assert run_cli("diff", "t", "t").code == 0


@pytest.mark.contract("PLAN-SETTINGS-1")
def test_without_the_table_nothing_is_read(here: Path) -> None:
    write(here, "[tool.other]\nx = 1\n")
    (here / "inside" / "pyproject.toml").write_text("# not TOML, and nothing of ours = =")
    assert run_cli("stages").err == ""


@pytest.mark.contract("PLAN-SETTINGS-2")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tool.aprgraph.rum]\nlayers = '1'", "[tool.aprgraph.rum]: there is no command 'rum'; expected one of check, compile, run"),
        ("[tool.aprgraph.run]\nlayer = '1'", "there is no option 'layer' (did you mean 'layers'?); expected one of taps, layers"),
        (
            "[tool.aprgraph.run]\nfamily = ['evil.py']",
            "family is given on the command line alone; the file may be somebody else's; take it out",
        ),
        ("[tool.aprgraph.run]\nforce = true", "force is given on the command line alone"),
        ("[tool.aprgraph.trust]\nyes = true", "yes is given on the command line alone"),
        ("[tool.aprgraph.run]\nrpc = 'evil:1'", "rpc is given on the command line alone"),
        ("[tool.aprgraph.run]\noutput = '/etc'", "output is given on the command line alone"),
        ("[tool.aprgraph.run]\nlayers = ['1']", "layers is ['1']; expected what --layers takes"),
        ("[tool.aprgraph.diff]\nreplay = 'yes'", "replay is 'yes'; expected true or false"),
        ("[tool.aprgraph]\nloud = true", "[tool.aprgraph] has 'loud'; expected tables of commands, and quiet and verbose, true or false"),
        ("[tool.aprgraph", "[tool.aprgraph] cannot be read: "),
    ],
)
def test_what_cannot_be_a_default_is_one_error(text: str, expected: str, here: Path) -> None:
    write(here, text)
    message = fails("stages")
    assert message.startswith(f"{here / 'pyproject.toml'}: ")
    assert expected in message


def test_quiet_and_verbose(tiny_model: Callable[..., Path], tiny: CompiledModel, here: Path) -> None:
    run = ("run", tiny.artifact.directory, "--tokens", TOKENS, "--taps", "ffn_up", "-o", "t")
    quiet, loud = run_cli(*run, "--quiet"), run_cli(*run, "--verbose")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert "layer-0/ffn_up.bin" in loud.out
    assert f"aprgraph: the artifact is {tiny.artifact.directory}, for " in loud.err
    assert loud.err.splitlines()[-1].startswith("aprgraph: ")
    assert loud.err.splitlines()[-1].endswith(" MB of memory")
    assert len(run_cli("diff", "t", "t", "-q").out.splitlines()) == 1
    assert len(run_cli("check", tiny_model(), "--quick", "-q").out.splitlines()) == 1
    write(here, "[tool.aprgraph]\nquiet = true\n")
    assert run_cli(*run) == quiet
    assert "layer-0/ffn_up.bin" in run_cli(*run, "--json").out

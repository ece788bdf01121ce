"""`aprgraph completion`: the scripts, in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from aprgraph.graph.stages import STAGES
from tests.support.cli import run_cli


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell, name in (("bash", "aprgraph"), ("zsh", "_aprgraph"), ("fish", "aprgraph.fish")):
        done = run_cli("completion", shell)
        assert (done.code, done.err) == (0, "")
        (folder / name).write_text(done.out)
    return folder


def in_shell(shell: str, code: str, folder: Path) -> list[str]:
    """The lines that ``code`` prints in a shell without anybody's settings."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    plain = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run([program, *plain, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def in_bash(words: str, folder: Path) -> list[str]:
    """What bash offers for the last of ``words``."""
    code = f"source ./aprgraph; COMP_WORDS=(aprgraph {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); compopt() {{ :; }}; "
    return in_shell("bash", code + "_aprgraph; printf '%s\\n' \"${COMPREPLY[@]}\"", folder)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("che", ["check"]),
        ("run --tap", ["--taps"]),
        ("run --taps attn_s", [stage.name for stage in STAGES if stage.name.startswith("attn_s")]),
        ("run m.gguf --taps qkv_matmul,lm_head,final", ["qkv_matmul,lm_head,final_norm"]),
        ("run --taps = final", ["final_norm"]),
        ("run --layers a", ["all"]),
        ("run -t c", ["cuda"]),
        ("diff a b --profile same-graph-b", ["same-graph-bf16"]),
        ("cache cl", ["clear"]),
        ("run --prompt che", [""]),
        ("completion", ["completion"]),
    ],
)
def test_bash_offers(words: str, offered: list[str], scripts: Path) -> None:
    assert in_bash(words, scripts) == offered


def test_bash_knows_all_stages_and_leaves_files_to_the_shell(scripts: Path) -> None:
    assert set(in_bash("run --taps ''", scripts)) == {"all", "apr", *(stage.name for stage in STAGES)}
    assert in_bash("run ''", scripts) == [""]
    assert "complete -o default" in (scripts / "aprgraph").read_text()


def test_fish_offers(scripts: Path) -> None:
    def offered(line: str) -> list[str]:
        code = f"source aprgraph.fish; complete -C 'aprgraph {line}'"
        return [text.partition("\t")[0] for text in in_shell("fish", code, scripts)]

    assert offered("che") == ["check"]
    assert offered("run --tap") == ["--taps"]
    assert "attn_scores" in offered("run --taps attn_s")
    assert "qkv_matmul,embedding" in offered("run --taps qkv_matmul,embed")
    assert "all" in offered("run --layers a")


def test_zsh_offers(scripts: Path) -> None:
    """In a terminal of its own, since the completion of zsh runs nowhere else."""
    code = r"""
zmodload zsh/zpty
zpty shell "zsh -f -i"
zpty -w shell 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; bindkey "^I" complete-word; PS1=READY; setopt nobeep nolistambiguous'
send() { zpty -n -w shell "$1"$'\t'; sleep 0.7; zpty -w shell $'\C-a#'; }
sleep 1; send 'aprgraph che'; send 'aprgraph run --layers al'; send 'aprgraph run --taps embed'; send 'aprgraph run --taps qkv_matmul,embed'
zpty -w shell 'exit'
while zpty -r shell line; do print -r -- "$line"; done
"""
    text = "\n".join(in_shell("zsh", code, scripts))
    for expected in ("check", "--layers all", "--taps embedding", "qkv_matmul,embedding"):
        assert expected in text, text


def test_another_shell_is_an_error() -> None:
    done = run_cli("completion", "tcsh")
    assert done.code == 2
    assert "'bash', 'zsh', 'fish'" in done.err

"""What a terminal obeys never comes out of a command raw, whatever names and texts its input holds."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import typer

from aprgraph.cli.terminal import TerminalStream, echo_data, harmless, harmless_console, harmless_streams
from aprgraph.runtime.trace.manifest import MANIFEST
from tests.support.blame import traced
from tests.support.changed_model import Tensors, changed_model
from tests.support.cli import Result, run_cli, run_process
from tests.support.compiled import use_cache

Tiny = Callable[..., Path]
#: A title, a colour by C1's CSI, an order of letters turned around and isolated, a line end of some terminals, DEL, BEL, CR.
HOSTILE = "n\x1b]0;x\x07\x9b31m\u202eb\u2066\u2028\x7f\rz"
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / f"in{HOSTILE}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    use_cache(monkeypatch, tmp_path / "cache")
    return folder


def quiet(result: Result) -> Result:
    """``result``, which holds nothing that a terminal obeys, and no defect of ours."""
    for text in (result.out, result.err):
        assert _RAW.search(text) is None, text.encode("unicode_escape")
    assert result.code in (0, 1, 2, 3), result.err
    return result


@pytest.fixture
def hostile_model(tiny_model: Tiny, here: Path) -> Path:
    """The names of the file and of the model, tensors, and every token."""
    tokens = [f"{HOSTILE}{at}" for at in range(len(gguf.GGUFReader(tiny_model()).fields["tokenizer.ggml.tokens"].contents()))]
    keys = {"tokenizer.ggml.tokens": tokens, "general.name": HOSTILE, "tokenizer.ggml.merges": None}

    def add(tensors: Tensors) -> None:
        tensors[f"blk.0.{HOSTILE}"] = np.zeros(3, np.float32)

    return changed_model(tiny_model(), here / f"{HOSTILE}.gguf", add, keys=keys)


@pytest.fixture
def hostile_trace(tiny_model: Tiny, here: Path) -> Path:
    """A target, a name of the model and what is generated; a stage that is no one's."""
    trace = traced(here / f"t{HOSTILE}", tiny_model())
    document = json.loads((trace.directory / MANIFEST).read_text())
    document["target"] = f"theirs {HOSTILE}"
    document["model"]["name"] = HOSTILE
    document["tensors"][3]["stage"] = f"stage{HOSTILE}"
    (trace.directory / MANIFEST).write_text(json.dumps(document))
    return trace.directory


@pytest.mark.contract("ERR-TERMINAL-1")
@pytest.mark.parametrize(
    "command",
    [
        ["check"], ["inspect"], ["run"], ["graph"], ["compile"], ["stages", "--model"], ["audit"], ["diff"], ["weights"], ["bisect"],
        ["cache"], ["models"], ["contracts"], [],
    ],
    ids=lambda command: command[0] if command else "none",
)  # fmt: skip
def test_names_that_are_not_there_and_options_that_are_none(command: list[str]) -> None:
    for arguments in ([HOSTILE], [f"--{HOSTILE}"], [HOSTILE, HOSTILE], ["x.gguf", f"--taps={HOSTILE}"]):
        quiet(run_cli(*command, *arguments))


@pytest.mark.contract("ERR-TERMINAL-1")
def test_a_model_whose_texts_are_hostile(hostile_model: Path) -> None:
    for arguments in (["check"], ["inspect"], ["graph"], ["graph", "--format", "dot"], ["run", "--target", "reference", "-n", "3"]):
        prompt = ["--tokens", "1,2,3"] if arguments[0] == "run" else []
        quiet(run_cli(arguments[0], hostile_model, *arguments[1:], *prompt))


@pytest.mark.contract("ERR-TERMINAL-1")
def test_a_chat_template_that_raises(tiny_model: Tiny, here: Path) -> None:
    path = here / "chat.gguf"
    writer_keys = "{{ raise_exception('bad " + HOSTILE.replace("\r", "") + "') }}"
    override = f"tokenizer.chat_template=str:{writer_keys}"
    path.write_bytes(tiny_model().read_bytes())
    quiet(run_cli("run", path, "--chat", "--prompt", "x", "--target", "reference", "--override-kv", override))


@pytest.mark.contract("ERR-TERMINAL-1")
def test_traces_whose_manifests_are_hostile(hostile_trace: Path, tiny_model: Tiny, here: Path) -> None:
    other = traced(here / "other", tiny_model()).directory
    for arguments in (["diff", other, hostile_trace], ["inspect", hostile_trace], ["audit", hostile_trace, "--model", tiny_model()]):
        quiet(run_cli(*arguments))
        quiet(run_cli(*arguments, "--json"))


@pytest.mark.contract("ERR-TERMINAL-1")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_encoding_without_the_letters(encoding: str, tiny_model: Tiny, here: Path) -> None:
    model = here / f"\u65e5\u672c {HOSTILE}.gguf"
    model.write_bytes(tiny_model().read_bytes())
    found = run_process("inspect", model, cwd=here, env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"})
    assert "\\u65e5\\u672c" in quiet(found).out
    failed = run_process("inspect", here / "\u65e5", cwd=here, env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"})
    assert "\\u65e5" in quiet(failed).err


def test_streams_and_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    generated = io.StringIO()
    monkeypatch.setattr(sys, "stdout", generated)
    with harmless_streams():
        typer.echo("of a model \x1b]0;x\x07", nl=False)
    assert generated.getvalue() == "of a model \\x1b]0;x\\x07"
    raw = io.StringIO()
    stream = TerminalStream(raw)
    assert stream.write("a\x1b[2J\n\tb") == 8
    stream.writelines(["c\udc80", "\u202e"])
    assert raw.getvalue() == "a\\x1b[2J\n\tbc\\udc80\\u202e"
    assert not hasattr(stream, "buffer")
    assert harmless("\u00e9\u65e5\U0001f600\u200d\u00a0") == "\u00e9\u65e5\U0001f600\u200d\u00a0"
    shown = io.StringIO()
    harmless_console(TerminalStream(shown), force_terminal=True, color_system="standard", highlight=False).print(
        "\x1b[8mx", style="red", markup=False
    )
    assert shown.getvalue() == "\x1b[31m\\x1b[8mx\x1b[0m\n"


@pytest.mark.parametrize("command", [["contracts"], ["models"], ["stages"], ["cache"], ["--help"]], ids=" ".join)
def test_what_a_terminal_shows_holds_no_code_in_letters(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A colour that a command gave itself would be shown as an escape, since what it prints may be of a file."""
    monkeypatch.chdir(Path(__file__).parents[2])
    shown = quiet(run_cli(*command, terminal=True)).out
    assert shown.count("\n") >= 1
    assert "\\x1b" not in shown


def test_data_is_exact_where_no_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, expected in ((False, "a\u202e"), (True, "a\\u202e")):
        raw = io.StringIO()
        raw.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdout", raw)
        with harmless_streams():
            echo_data("a\u202e")
        assert raw.getvalue() == expected

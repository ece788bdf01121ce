"""The command line as a whole: help, versions, start, errors of every command, pipes."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import typer

from aprgraph.cli import app as app_module
from aprgraph.graph.errors import AprgraphError
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.cli import error_of, fails, run_cli, run_process, run_python
from tests.support.compiled import SHARED_CACHE, compiled

COMMANDS = ("check", "compile", "run", "diff", "graph", "inspect", "stages", "models")


def test_help_lists_the_commands_and_shows_examples() -> None:
    result = run_cli("--help")
    assert (result.code, result.err) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in result.out
    assert "Example:\n    aprgraph check model.gguf" in result.out
    assert run_cli("-h") == result


def test_no_arguments_show_the_help() -> None:
    result = run_cli()
    assert run_cli("--help").out in (result.out, result.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_that_parses(command: str) -> None:
    result = run_cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 120
    _, _, example = result.out.partition("Example:")
    line = next(line for line in example.split("&&")[0].splitlines() if f"aprgraph {command}" in line)
    options = {word for word in line.split() if word.startswith("-")}
    assert all(option in result.out.replace(line, "") for option in options)


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    result = run_cli(option)
    assert (result.code, result.out, result.err) == (0, f"aprgraph {version('aprgraph')}\n", "")


def test_the_package_is_the_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aprgraph", "stages", "nothing.gguf"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing.gguf: not there")


@pytest.mark.parametrize(("arguments", "message"), [
    ("nonsense", "there is no command 'nonsense'; see `aprgraph --help`"),
    ("dif a b", "there is no command 'dif' (did you mean 'diff'?); see `aprgraph --help`"),
    ("cache cleer", "there is no command 'cleer' (did you mean 'clear'?); see `aprgraph cache --help`"),
    ("run --nonsense", "there is no option --nonsense; see `aprgraph run --help`"),
    ("run --tap all", "there is no option --tap (did you mean '--taps'?); see `aprgraph run --help`"),
    ("check m.gguf --beside x", "there is no option --beside here; `aprgraph graph` takes it; see `aprgraph check --help`"),
    ("run --threads 0", "--threads: expected 1 to 1024; see `aprgraph run --help`"),
    ("run --threads x", "--threads: expected a whole number; see `aprgraph run --help`"),
    ("run --threads", "--threads needs a value; see `aprgraph run --help`"),
    ("run --chat=yes", "--chat takes no value; see `aprgraph run --help`"),
    ("diff a", "B is missing; see `aprgraph diff --help`"),
    ("inspect a b", "b is more than it takes; see `aprgraph inspect --help`"),
    ("completion", "shell is missing, expected one of bash, zsh, fish; see `aprgraph completion --help`"),
    ("completion tcsh", "shell: 'tcsh' is not one of 'bash', 'zsh', 'fish'; see `aprgraph completion --help`"),
])  # fmt: skip
def test_what_the_command_line_cannot_parse(arguments: str, message: str) -> None:
    """One line, as of all other errors, and where the right form stands."""
    result = run_cli(*arguments.split())
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: {message}\n"


def test_the_list_of_commands_is_whole_in_80_columns(tmp_path: Path) -> None:
    result = run_process("--help", cwd=tmp_path, env={"COLUMNS": "80"})
    commands = result.out.partition("Commands:\n")[2].splitlines()
    assert len(commands) > len(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("..") for line in commands), commands


# -- what is imported ---------------------------------------------------------------------------------------------------

#: Runs command lines, each an argument as JSON, one after the other in one process: a line each on stderr, of the exit code, how much
#: was printed, and what of the heavy modules is there by then.
_IMPORTED = """
import contextlib, io, json, sys
from aprgraph.cli import main
heavy = ("tvm", "numpy", "networkx", "rich", "tokenizers", "gguf", "aprgraph.runtime.blame", "aprgraph.graph.model", "aprgraph.graph.families")
for arguments in map(json.loads, sys.argv[1:]):
    sys.argv[1:], out, code = arguments, io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out):
            main()
    except SystemExit as end:
        code = end.code or 0
    print(json.dumps([code, len(out.getvalue()), [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


def imported_by(commands: Sequence[Sequence[object]], folder: Path) -> list[list[str]]:
    """The heavy modules that are there after each command, all run in one process; none fails, and each prints something."""
    result = run_python(_IMPORTED, *(json.dumps([*map(str, command)]) for command in commands), cwd=folder)
    found = [json.loads(line) for line in result.err.splitlines()]
    assert len(found) == len(commands), result.err
    for command, (code, printed, _) in zip(commands, found, strict=True):
        assert code == 0, command
        assert printed, command
    return [modules for *_, modules in found]


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    commands = [["--help"], *([command, "--help"] for command in COMMANDS)]
    assert imported_by(commands, tmp_path) == [[]] * len(commands)


def test_what_needs_no_kernels_does_not_import_tvm(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model()
    for name in ("a", "b"):
        assert run_cli("run", model, "--tokens", "1,2", "--taps", "ffn_up", "--target", "reference", "-o", tmp_path / name).code == 0
    commands = [
        ["diff", "a", "b"], ["stages"], ["stages", model], ["graph", model], ["inspect", model], ["inspect", "a"],
        ["inspect", "a/layer-0/ffn_up.bin"], ["compile", model, "--target", "reference"], ["--version"],
        ["run", model, "--tokens", "1,2", "--taps", "ffn_out", "--layers", "0", "--target", "reference", "-o", "c"],
    ]  # fmt: skip
    imported = imported_by(commands, tmp_path)
    assert imported[0] == ["numpy", "rich"], "two traces are compared without what loads and replays a model"
    for command, modules in zip(commands, imported, strict=True):
        assert "tvm" not in modules, command


def test_no_command_imports_torch(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """TVM does where there is one, which takes two seconds, and fails where a removed one left its folder."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    environment = {"PYTHONPATH": str(tmp_path), "APRGRAPH_CACHE": str(tmp_path / "cache"), "APRGRAPH_CACHE_SIZE": "1G"}
    compiled(tiny_model())  # a cache that has all kernels but one kind: the compiler is loaded for that
    kernels = tmp_path / "cache" / "kernels"
    kernels.mkdir(parents=True)
    for path in (SHARED_CACHE / "kernels").glob("*.o"):
        if not path.name.startswith("embed_"):
            (kernels / path.name).symlink_to(path)
    for command in ("compile", "run"):
        result = run_process(command, tiny_model(), *(("--tokens", "1,2") if command == "run" else ()), cwd=tmp_path, env=environment)
        assert (result.code, (tmp_path / "imported").exists()) == (0, False), result.err
    assert [*kernels.glob("embed_*")]


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "graph", "stages"])
def test_a_model_that_is_not_there(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(command, "no.gguf")
    assert message.startswith("no.gguf: ")
    assert "expected a" in message or "give the path of a .gguf file" in message


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "graph", "stages", "diff"])
@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "caf\udce9"])
def test_names_that_are_odd(command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long for the system, with a line end, or in no encoding: one line all the same."""
    monkeypatch.chdir(tmp_path)
    fails(command, name, *([name] if command == "diff" else []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "graph", "stages"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut in the header", "cut in the data"])
def test_a_model_that_is_damaged(
    command: str, damage: str, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tiny_model().read_bytes()
    Path("m.gguf").write_bytes(
        {"empty": b"", "text": b"GPT-2 weights", "cut in the header": whole[:1000], "cut in the data": whole[:-1]}[damage]
    )
    message = fails(command, "m.gguf")
    assert message.startswith("m.gguf: ")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(("override", "expected"), [
    ("llama.rope.freq_base", "expected KEY=TYPE:VALUE with TYPE int, float, bool or str"),
    ("=float:1", "expected KEY=TYPE:VALUE"),
    ("a=1", "expected KEY=TYPE:VALUE"),
    ("a=double:1", "unknown type 'double', expected int, float, bool or str"),
    ("a=float:nan", "is not a finite number"),
    ("a=int:1.5", "is not a whole number"),
    ("a=int:99999999999999999999", "64 bits"),
    ("a=bool:yes", "is neither true nor false"),
    ("tokenizer.ggml.tokens=str:x", "the model holds an array there, which cannot be overridden"),
    ("llama.block_count=int:0", "'llama.block_count' is 0, expected a number from 1"),
    ("llama.block_count=int:1", "has no place in a 'llama' model of 1 layers"),
    ("llama.block_count=str:two", "'llama.block_count' is 'two', expected a whole number"),
    ("general.architecture=str:gpt9", "general.architecture is 'gpt9', a family that aprgraph does not have; `"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["compile", "run", "graph", "stages"])
def test_overrides_that_are_refused(
    command: str, override: str, expected: str, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in fails(command, tiny_model(), "--override-kv", override)
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/where")

    monkeypatch.setattr(app_module, "app", refused)
    assert error_of(run_cli()) == "/some/where: Permission denied"


@pytest.mark.parametrize(("reason", "expected"), [((), ""), (("9 positions do not fit",), ": 9 positions do not fit")])
def test_too_little_memory_is_one_line(reason: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise MemoryError(*reason)

    monkeypatch.setattr(app_module, "app", fail)
    assert error_of(run_cli()) == f"not enough memory{expected}; free some, or give less to do: a shorter prompt, fewer layers"


def test_a_question_that_nobody_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input ended where `aprgraph trust` asked."""

    def asks(**_: object) -> None:
        raise typer.Abort

    monkeypatch.setattr(app_module, "app", asks)
    assert error_of(run_cli()) == "nothing was answered, and nothing was done"


def test_errors_go_to_stderr_alone(tmp_path: Path) -> None:
    result = run_process("run", "no.gguf", cwd=tmp_path)
    assert result.out == ""
    assert error_of(result).startswith("no.gguf: ")


@pytest.mark.contract("ERR-DEFECT-1")
def test_a_defect_is_exit_70_and_keeps_its_traceback(tmp_path: Path) -> None:
    """Never 1, which is "diverged"; one line, and the traceback where the line says."""
    code = "from aprgraph.cli import app\ndef fail(**_): raise ZeroDivisionError('a\\nb\\x1b')\napp.app = fail\napp.run_command()"
    environment = {"APRGRAPH_DEBUG": "0", "TMPDIR": str(tmp_path)}
    result = run_python(code, cwd=tmp_path, env=environment)
    assert (result.code, result.out) == (70, "")
    [line] = result.err.splitlines()
    assert line.startswith("internal error: ZeroDivisionError: a\\nb\\x1b")
    assert "report it to" in line
    [kept] = tmp_path.glob("aprgraph-traceback-*.txt")
    assert line.endswith(str(kept))
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    shown = run_python(code, cwd=tmp_path, env=environment | {"APRGRAPH_DEBUG": "1"})
    assert (shown.code, len(list(tmp_path.glob("aprgraph-*")))) == (70, 1)
    assert shown.err.startswith("Traceback")


@pytest.mark.contract("ERR-DEFECT-1")
@pytest.mark.parametrize("kind", [RecursionError, AssertionError, KeyError, ValueError, RuntimeError])
def test_no_exception_is_exit_1(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(**_: object) -> None:
        raise kind("what")

    monkeypatch.setattr(app_module, "app", defect)
    result = run_cli()
    assert (result.code, result.out) == (70, "")
    assert kind.__name__ in result.err
    assert "Traceback" in result.err  # APRGRAPH_DEBUG is set where tests run


def test_an_error_class_of_every_kind_is_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(kind: type[AprgraphError]) -> list[type[AprgraphError]]:
        return [kind] + [below for child in kind.__subclasses__() for below in kinds(child)]

    found = kinds(AprgraphError)
    assert len(found) > 8
    for kind in found:

        def fail(kind: type[AprgraphError] = kind, **_: object) -> None:
            raise kind("what, where")

        monkeypatch.setattr(app_module, "app", fail)
        assert error_of(run_cli()) == "what, where"


# -- pipes and encodings ------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """`aprgraph stages | head -1` says nothing on stderr, and ends as other programs do."""
    code = "from aprgraph.cli import main; main()"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([sys.executable, "-c", code, "stages"], stdout=pipe, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_of_any_encoding(encoding: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """A token's text may be any character."""
    model = tiny_model()
    command = ["run", str(model), "--tokens", ",".join(map(str, range(60))), "--positions", "all", "--target", "reference"]
    commands = [["stages"], ["inspect", str(model)], command]
    code = """
import json, sys
sys.stdout.reconfigure(encoding=sys.argv[1], errors="strict")
from aprgraph.cli import main
for sys.argv[1:] in json.loads(sys.argv[2]):
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("ended")
"""
    result = run_python(code, encoding, json.dumps(commands), cwd=tmp_path, env={"PYTHONUTF8": "0"})
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines().count("ended") == len(commands)


def test_examples_in_the_help_keep_their_lines() -> None:
    for command in ("compile", "run", "diff", "graph", "inspect"):
        lines = [line.strip() for line in run_cli(command, "--help").out.splitlines()]
        assert "Example:" in lines, command
        assert lines[lines.index("Example:") + 1].startswith(f"aprgraph {'run' if command == 'diff' else command} "), command
        assert "\\b" not in " ".join(lines)


def test_closed_standard_streams(tmp_path: Path) -> None:
    """``>&-``: Python has no sys.stdout then; 1 would say that two traces diverge."""
    for name in ("a", "b"):
        writer = TraceWriter(tmp_path / name)
        writer.write("x", "lm_head", None, 0, np.ones(3, np.float32))
        writer.close()
        (tmp_path / name / "trace.incomplete").unlink()
    command = [sys.executable, "-c", "from aprgraph.cli import main; main()", "diff", "a", "b"]
    for streams in (">&-", ">&- 2>&-"):
        line = shlex.join(command) + " " + streams
        assert subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False).returncode == 0


def test_termination_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
import os, signal
from aprgraph.cli import app, main
from aprgraph.runtime.trace import aprt
def terminated(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("still here")
aprt.os.writev = terminated
app.app = lambda **_: aprt.write_aprt("x.bin", None, __import__("numpy").ones(3, "f4"))
main()
"""
    assert run_python(code, cwd=tmp_path).code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []

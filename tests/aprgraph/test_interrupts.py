"""Signals that ask a command to end, and a program that uses the API."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interruptions import ENDING, Subject, interrupt, prepare
from tests.support.cli import run_python

#: A few roads through the program; `make interruptions` takes all, and sends hundreds.
_ROADS = ("run -n", "compile cold", "bisect", "diff")
#: Seconds in which most of these are done on an idle machine.
_USUAL = 1.2


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Subject]]:
    folder = tmp_path_factory.mktemp("interrupted") / "work"
    folder.mkdir()
    return folder, {subject.name: subject for subject in prepare(folder)}


@pytest.mark.contract("ERR-SIGNAL-1")
@pytest.mark.parametrize("road", _ROADS)
def test_a_command_ends_at_any_moment(road: str, subjects: tuple[Path, dict[str, Subject]]) -> None:
    folder, by_name = subjects
    chance = random.Random(road)
    interrupt(folder, by_name[road], [chance.choice(ENDING)], chance.uniform(0.1, _USUAL), group=chance.random() < 0.5)


@pytest.mark.contract("ERR-SIGNAL-1")
def test_one_that_comes_at_once_and_a_second_one(subjects: tuple[Path, dict[str, Subject]]) -> None:
    folder, by_name = subjects
    ending = interrupt(folder, by_name["stages"], [signal.SIGINT, signal.SIGTERM], 0)
    assert ending.code in (130, 143)
    ending = interrupt(folder, by_name["stages"], [signal.SIGTSTP, signal.SIGCONT], 0.05)
    assert ending.code == 0


@pytest.mark.contract("ERR-SIGNAL-1")
def test_ignored_ones_stay_ignored(tmp_path: Path) -> None:
    """As `nohup` and shells do for commands in the background."""
    code = """
import os, signal
from aprgraph.cli import app, main
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for number in numbers:
    signal.signal(number, signal.SIG_IGN)
app.app = lambda **_: [os.kill(os.getpid(), number) for number in numbers]
main()
print("on")
"""
    assert run_python(code, cwd=tmp_path).out == "on\n"


#: A program that runs a model three times, and is sent a signal at the second tap.
_HOST = """
import os, signal, sys
import aprgraph

def asked(number, frame):
    seen.append(number)
    if raises:
        raise TimeoutError("asked")

def tap(entry):
    taps.append(entry)
    if len(taps) == 2:
        os.kill(os.getpid(), number)
        taps.append("after")

signal.signal(signal.SIGTERM, asked)
handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
compiled = aprgraph.load(sys.argv[1]).compile_cached()
for number, raises in ((signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)):
    seen, taps, ended = [], [], "whole"
    try:
        compiled.run("all", tokens=[1, 2, 3], directory="out", on_entry=tap)
    except BaseException as error:
        ended = type(error).__name__
    print(ended, seen, len(taps) == 3, handlers == {number: signal.getsignal(number) for number in handlers})
"""


@pytest.mark.contract("ERR-SIGNAL-2")
def test_from_python_it_comes_out_of_the_call(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    result = run_python(_HOST, tiny_model(), cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "KeyboardInterrupt [] True True",
        "TimeoutError [15] True True",
        "whole [15] False True",  # a handler that raises nothing ends nothing
    ]


#: A program that compiles a model, and is interrupted while TVM compiles the first kernels.
_COMPILING_HOST = """
import json, os, signal, sys
import aprgraph
from aprgraph.codegen.cpu import objects

def build(*arguments, **named):
    if not sent:
        sent.append(os.kill(os.getpid(), signal.SIGINT))
    made = build_it(*arguments, **named)
    built.append("whole")
    return made

built, sent, build_it, objects.tirx.build = [], [], objects.tirx.build, build
model = aprgraph.load(sys.argv[1])
try:
    model.compile(directory="m.aprg")
except KeyboardInterrupt:
    objects.tirx.build = build_it
    ended, left, restored = len(built), os.listdir(), signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(json.dumps([ended, len(model.compile(directory="m.aprg").artifact.kernels), left, restored]))
"""


@pytest.mark.contract("ERR-SIGNAL-2")
def test_compiling_ends_between_two_kernels(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    environment = {"APRGRAPH_CACHE": str(tmp_path / "cache")}
    result = run_python(_COMPILING_HOST, tiny_model(), cwd=tmp_path / "work", env=environment)
    assert (result.code, result.err) == (0, "")
    built, total, left, restored = json.loads(result.out)
    assert (left, restored) == ([], True)
    assert 1 <= built < total

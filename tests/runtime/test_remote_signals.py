"""Interrupts and broken pipes while a session on an RPC server is open."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aprgraph.runtime.remote.signals import SessionSignals
from tests.support.cli import run_python

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """What the command line's handler of SIGTERM does, for tests."""


def terminate(_number: int, _frame: object) -> None:
    raise Terminated


@pytest.fixture
def signals() -> Iterator[SessionSignals]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGTERM, terminate)
    session = SessionSignals()
    yield session
    session.restore(lost=False)
    assert signal.getsignal(signal.SIGTERM) is terminate
    assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    signal.signal(signal.SIGTERM, before[signal.SIGTERM])


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interrupt_waits_for_the_message(signals: SessionSignals, number: signal.Signals, kind: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with signals.held():
            with signals.held():
                os.kill(os.getpid(), number)
                done.append(1)
            done.append(2)

    with pytest.raises(kind):
        work()
    assert done == [1, 2]
    with signals.held():
        done.append(3)
    with pytest.raises(kind):  # outside of messages at once
        os.kill(os.getpid(), number)


def test_a_second_interrupt_does_not_wait(signals: SessionSignals) -> None:
    done = []

    def work() -> None:
        with signals.held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                done.append(2)

    with pytest.raises(KeyboardInterrupt):  # the first, at the end
        work()
    assert done == [1, 2]


def test_between_the_pieces_of_a_large_tensor_it_is_let_through(signals: SessionSignals) -> None:
    done = []

    def work() -> None:
        with signals.held():
            signals.let_through()
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
            signals.let_through()
            done.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]


def test_other_threads_leave_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        session = SessionSignals()
        seen.append(signal.getsignal(signal.SIGINT))
        session.restore(lost=False)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("lost", "code"), [(True, 0), (False, -signal.SIGPIPE)])
def test_a_broken_pipe(lost: bool, code: int, tmp_path: Path) -> None:
    """Of a connection that was lost it is an error; any other, as of `aprgraph run | head`, ends the process as ever."""
    result = run_python(
        """
import signal, socket, sys
from aprgraph.runtime.remote.signals import SessionSignals
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
session = SessionSignals()
a, b = socket.socketpair()
b.close()
try:
    a.send(b"x")
except BrokenPipeError:
    print("an error")
sys.stdout.flush()
session.restore(lost=sys.argv[1] == "True")
""",
        lost,
        cwd=tmp_path,
    )
    assert result.out == "an error\n"
    assert result.code == code

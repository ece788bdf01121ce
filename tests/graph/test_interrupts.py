"""Interrupts that wait: in a host program, whose handlers raise what they like."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from aprgraph.graph.interrupts import ASKING, held, let_through

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Asked(BaseException):
    """What the handlers of these tests raise."""


@pytest.fixture(autouse=True)
def host() -> Iterator[list[int]]:
    """A host's handlers, which raise; the list of the signals that they have seen. Afterwards they are there again."""
    seen: list[int] = []

    def raise_it(number: int, _frame: object) -> None:
        seen.append(number)
        raise Asked(number)

    before = {number: signal.signal(number, raise_it) for number in NUMBERS}
    yield seen
    assert [signal.getsignal(number) for number in NUMBERS] == [raise_it] * len(NUMBERS)
    for number, handler in before.items():
        signal.signal(number, handler)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.contract("ERR-SIGNAL-2")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("may_end", [False, True])
def test_it_waits_for_the_end_of_the_outer_block(number: int, may_end: bool, host: list[int]) -> None:
    done = []

    def work() -> None:
        with held(may_end=may_end):
            with held():
                ask(number)
                done.append(1)
            done.append(2)

    with pytest.raises(Asked):
        work()
    assert (done, host) == ([1, 2], [number])
    with held(may_end=may_end):
        done.append(3)
    with pytest.raises(Asked):  # outside of blocks at once
        ask(number)


def test_what_is_ignored_or_left_to_the_system_stays_so() -> None:
    before = {number: signal.getsignal(number) for number in ASKING}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with held():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            ask(signal.SIGTERM)
        with held():
            assert not callable(before[signal.SIGUSR1]) or signal.getsignal(signal.SIGUSR1) != before[signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert {number: signal.getsignal(number) for number in ASKING} == before


def test_a_second_one_does_not_wait_for_an_answer(host: list[int]) -> None:
    done = []

    def work() -> None:
        with held():
            ask(signal.SIGINT)
            done.append(1)
            try:
                ask(signal.SIGINT)
            except Asked:
                done.append(2)

    with pytest.raises(Asked):
        work()
    assert (done, host) == ([1, 2], [signal.SIGINT, signal.SIGINT])


def test_none_is_raised_in_foreign_code_however_many_come(host: list[int]) -> None:
    done = []

    def work() -> None:
        with held(may_end=True):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                ask(number)
                done.append(number)

    with pytest.raises(Asked) as raised:
        work()
    assert len(done) == 3
    assert host == [signal.SIGTERM, signal.SIGINT]  # each once
    assert raised.value.args == (signal.SIGTERM,)


def test_it_is_let_through_where_the_block_says(host: list[int]) -> None:
    done = []

    def work() -> None:
        with held():
            let_through()
            ask(signal.SIGINT)
            done.append(1)
            let_through()
            done.append(2)

    with pytest.raises(Asked):
        work()
    assert (done, host) == ([1], [signal.SIGINT])


def test_handlers_are_back_where_the_block_raises(host: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), held():
        raise ZeroDivisionError
    assert host == []


@pytest.mark.contract("ERR-SIGNAL-2")
def test_other_threads_leave_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with held(), held(may_end=True):
            let_through()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]

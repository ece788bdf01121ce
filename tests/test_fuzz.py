"""A short run of every fuzzer, always the same cases, and the inputs that one of them has found something with."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import run as running
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import Finding, TooLong, attempt, check
from tests.fuzz.target import Target

#: Named KIND.WHAT.*: put in place of the file of that kind.
CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())
#: Of each kind, so many; a template has a process of its own.
CASES = dict.fromkeys(KINDS, 20) | {"template": 3}


@pytest.mark.contract("ERR-FUZZ-1")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = KINDS[name](tmp_path)
    for case in range(CASES[name]):
        target.mutate(Random(f"0/{name}/{case}"))
        check(target, case)


@pytest.mark.contract("ERR-FUZZ-1")
@pytest.mark.parametrize("path", CORPUS, ids=[path.name for path in CORPUS])
def test_what_was_found_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that reads it too."""
    monkeypatch.chdir(tmp_path)
    target = KINDS[path.name.partition(".")[0]](tmp_path)
    target.mutate(Random(0))
    target.path.unlink(missing_ok=True)
    target.path.write_bytes(path.read_bytes())
    check(target, 0, always=True)


# -- the fuzzer itself ----------------------------------------------------------------------------------------------------


class Planted(Target):
    """Reading does what the case's number says."""

    name = "planted"
    file = "x"
    done = 0

    def mutate(self, random: Random) -> None:  # noqa: ARG002
        self.case = Planted.done = Planted.done + 1

    def read(self) -> None:
        if self.case == 2:
            raise ZeroDivisionError
        if self.case == 3:
            while True:
                pass
        if self.case == 4:
            os.abort()
        if self.case == 5:
            bytearray(2 << 30)


def test_the_fuzzer_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception, a hang, the end of the process, and too much memory; and it goes on behind each."""
    monkeypatch.setattr(running, "CPU_SECONDS", 0.2)
    count, findings = running.run(Planted, 0, 0, 4, until=float("inf"))
    assert count == 4
    kinds = [one.kind.split(" at ")[0] for one in findings]
    assert kinds == ["ZeroDivisionError", "TooLong", "the process ended with 6"]
    assert [one.case for one in findings] == [1, 2, 3]
    Planted.done = 4
    assert [one.kind.split(" at ")[0] for one in running.run(Planted, 0, 0, 1, until=float("inf"))[1]] == ["MemoryError"]


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    """So that a finding can be run again."""
    seen = set()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        target = KINDS["repro"](tmp_path / place)
        target.mutate(Random("7/repro/3"))
        seen.add(target.path.read_bytes())
    assert len(seen) == 1
    assert isinstance(attempt(target, 7, 3), Finding | None)
    assert issubclass(TooLong, BaseException)

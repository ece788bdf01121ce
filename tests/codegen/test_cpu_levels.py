"""CPU levels: which one a machine has, and artifacts that were built for another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from aprgraph.codegen.cpu import levels
from aprgraph.codegen.cpu.levels import CPUS, check_machine, check_runs_here, find_cpu, machine_flags, native_cpu
from aprgraph.graph.errors import ArtifactError, UnsupportedModelError

V2, V3, V4, V4_VNNI, A64, A64_DOTPROD = CPUS.values()


@pytest.fixture(autouse=True)
def _forget_this_machine() -> Iterator[None]:
    machine_flags.cache_clear()
    yield
    machine_flags.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, flags: Iterable[str]) -> None:
    """A machine with these instruction sets."""
    monkeypatch.setattr(levels, "machine_flags", lambda: frozenset(flags))


def test_levels_build_on_each_other() -> None:
    assert [*CPUS] == ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-vnni", "aarch64", "aarch64-dotprod"]
    assert set(V2.flags) < set(V3.flags) < set(V4.flags) < set(V4_VNNI.flags)
    assert set(A64.flags) < set(A64_DOTPROD.flags)
    assert (V2.lanes, V3.lanes, V4.lanes, V4_VNNI.lanes) == (4, 8, 16, 16)
    assert A64.lanes == A64_DOTPROD.lanes == V3.lanes  # so that sums have the same order


@pytest.mark.parametrize("level", CPUS.values(), ids=lambda level: level.name)
def test_the_highest_level_whose_instructions_are_all_there(monkeypatch: pytest.MonkeyPatch, level: levels.Cpu) -> None:
    pretend(monkeypatch, (*level.flags, "sse", "something_else"))
    assert native_cpu() is level
    assert find_cpu(None) is level


def test_one_instruction_less_is_one_level_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hypervisor may hide any of them."""
    for flag in set(V4.flags) - set(V3.flags):
        pretend(monkeypatch, set(V4.flags) - {flag})
        assert native_cpu() is V3, flag


def test_a_processor_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in ((), ("sse", "sse2"), V2.flags[1:]):
        pretend(monkeypatch, flags)
        with pytest.raises(
            UnsupportedModelError, match="is neither x86-64-v2 or later nor aarch64, which the LLVM target needs; use target='reference'"
        ):
            native_cpu()


def test_names() -> None:
    assert find_cpu("x86-64-v3") is V3
    for name in ("x86-64-v5", "", "skylake", "X86-64-V3"):
        with pytest.raises(
            ArtifactError, match="unknown CPU .*; expected one of x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni, aarch64, aarch64-dotprod"
        ):
            find_cpu(name)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, V3.flags)
    check_runs_here(V2, "m.aprg")
    check_runs_here(V3, "m.aprg")
    with pytest.raises(ArtifactError, match=r"^m\.aprg: built for x86-64-v4, but this machine lacks avx512f, .*; compile it here again$"):
        check_runs_here(V4, "m.aprg")


def test_another_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, other, name in (("x86_64", A64, "aarch64"), ("aarch64", V3, "x86-64-v3")):
        monkeypatch.setattr(levels.platform, "machine", lambda here=here: here)
        with pytest.raises(
            ArtifactError, match=f"^m.aprg: built for {name}, but this machine is {here}; run it on such a machine with rpc="
        ):
            check_runs_here(other, "m.aprg")
        check_machine(None, "m.aprg")
        with pytest.raises(ArtifactError, match=f"^m.aprg: built for {other.machine}, but this machine is {here}; "):
            check_machine(other.machine, "m.aprg")


def test_flags_of_an_arm_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd crc32 asimddp\nCPU part\t: 0xd0b\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert native_cpu() is A64_DOTPROD
    machine_flags.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text.replace(" asimddp", ""))
    assert native_cpu() is A64


def test_flags_as_the_system_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu sse avx2\nbugs\t\t: none\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert machine_flags() == {"fpu", "sse", "avx2"}


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine_flags() == frozenset()

"""Libraries in memory: the path that one was loaded by stays its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aprgraph.graph import machine_code
from aprgraph.graph.machine_code import MachineCode


@pytest.mark.contract("ERR-WRITE-1")
def test_what_is_loaded_can_be_opened_again_by_its_path(tmp_path: Path) -> None:
    """TVM maps it into memory for each backtrace that it writes: another file there, and shorter, would end the process."""
    code = MachineCode(b"code" * 100, Path("kernels.so"))
    path = code.path()
    others = [os.open(tmp_path / str(index), os.O_CREAT | os.O_RDWR) for index in range(8)]
    try:
        assert Path(path).read_bytes() == code.data
        assert MachineCode(code.data, Path("copy.so")).path() == path
        assert MachineCode(b"other", Path("kernels.so")).path() != path
    finally:
        for descriptor in others:
            os.close(descriptor)


@pytest.mark.parametrize(("start", "machine"), [
    (b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0", "x86_64"),
    (b"\x7fELF\x02\x01" + bytes(12) + b"\xb7\0", "aarch64"),
    (b"\x7fELF\x02\x01" + bytes(12) + b"\xf3\0", None),  # RISC-V
    (b"\x7fELF\x01\x01" + bytes(12) + b"\x28\0", None),  # 32 bits
    (b"\x7fELF\x02\x01", None), (b"", None),
])  # fmt: skip
def test_the_machine_of_a_library(start: bytes, machine: str | None) -> None:
    assert MachineCode(start, Path("kernels.so")).machine == machine


def test_descriptors_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "_OPEN", {})
    monkeypatch.setattr(machine_code, "_MOST_OPEN", 3)
    before = len(os.listdir("/proc/self/fd"))
    paths = [MachineCode(bytes([index]), Path("a.so")).path() for index in (0, 1, 2, 0, 3)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert [Path(paths[at]).read_bytes() for at in (2, 3, 4)] == [b"\2", b"\0", b"\3"]
    for descriptor in machine_code._OPEN.values():
        os.close(descriptor)

"""Mapped files of which pages are lost."""

from __future__ import annotations

import mmap
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.cli.lost_pages import describe
from tests.support.cli import error_of, run_python

#: Runs the command line, and cuts the model off when the first tensor has been computed.
_CUT = """
import os, sys
from aprgraph.cli import main
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.tvm_session import Session
def cuts(of, name):
    known = getattr(of, name)
    def cut(self, *arguments, **named):
        os.truncate("m.gguf", 1000)
        return known(self, *arguments, **named)
    setattr(of, name, cut)
cuts(TraceWriter, "write")
cuts(Session, "_tap")
main()
"""


@pytest.mark.contract("ERR-SHRINK-1")
@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_a_model_that_is_cut_while_it_runs(target: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_model().read_bytes())
    run = ("run", "m.gguf", "--tokens", "1,2,3", "--taps", "all", "--layers", "0..2", "--target", target, "-o", "t", "--json")
    message = error_of(run_python(_CUT, *run, cwd=tmp_path))
    assert message.startswith(f"{tmp_path}/m.gguf: became shorter while it was read (byte ")
    assert message.endswith(" of now 1,000); run it again on a file that nobody changes")
    assert not (tmp_path / "t/trace.json").exists()
    assert not list((tmp_path / "t").rglob(".*"))


@pytest.mark.contract("ERR-SHRINK-1")
def test_others_end_the_process_as_ever(tmp_path: Path) -> None:
    code = """
import os, signal
from aprgraph.cli.lost_pages import lost_pages_are_errors
with lost_pages_are_errors():
    pass
with lost_pages_are_errors():
    os.kill(os.getpid(), signal.SIGBUS)
    os.kill(os.getpid(), signal.SIGBUS)
"""
    result = run_python(code, cwd=tmp_path)
    assert (result.code, result.out, result.err) == (-signal.SIGBUS, "", "")
    assert describe(0) is None


def test_a_name_may_hold_what_ends_lines(tmp_path: Path) -> None:
    """The system writes a line feed in a name otherwise, and a carriage return as it is."""
    path = tmp_path / "two\r lines\n"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        assert describe(0) is None
        assert "two\\r lines" in (describe(address + 50) or "")

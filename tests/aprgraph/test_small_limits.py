"""Limits of the system and variables of the environment that leave too little: one clear error, and never exit code 1."""

from __future__ import annotations

import marshal
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aprgraph.cli.short_of_memory import why_short_of_memory
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.tvm_libraries import RUNTIME, load_tvm_library
from aprgraph.runtime.trace.aprt import HEADER
from aprgraph.runtime.tvm_session import Session
from tests.support.cli import run_process, run_python


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["inspect", "not-there"], ["nonsense"]])
def test_an_error_that_nothing_takes_is_exit_code_2_all_the_same(arguments: list[str]) -> None:
    """And not 1, which says that traces diverge: a disk that is full may be what stderr goes to."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "aprgraph", *arguments], stderr=full, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("threads", ["99999999", "0", "-3", "abc", "", "1025", "9" * 5000])
def test_a_number_of_threads_that_is_none(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM took 13 GB to make room for 99,999,999."""
    monkeypatch.setenv("TVM_NUM_THREADS", threads)
    with pytest.raises(ArtifactError, match=r"^TVM_NUM_THREADS is .*, expected a number of threads from 1 to 1024; set that, or unset it$"):
        load_tvm_library(RUNTIME)


def test_what_is_short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_short_of_memory(MemoryError("so much")) == "so much"
    assert why_short_of_memory(RuntimeError("std::bad_alloc")) is not None
    chained = AttributeError("RegisterOpAttr")
    chained.__cause__ = OSError("Resource temporarily unavailable")
    assert why_short_of_memory(chained) is not None
    defect = AttributeError("RegisterOpAttr")
    assert why_short_of_memory(defect) is None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, resource.RLIM_INFINITY))
    assert "of the 1 MB that this process may map" in (why_short_of_memory(defect) or "")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 62, resource.RLIM_INFINITY))
    assert why_short_of_memory(defect) is None


def test_a_file_larger_than_may_be_mapped(tmp_path: Path) -> None:
    count = 1 << 29
    with (tmp_path / "x.bin").open("wb") as file:
        file.write(HEADER.pack(b"APRT", 0xFFFFFFFF, count))
        file.truncate(HEADER.size + 4 * count)  # a hole
    command = [sys.executable, "-m", "aprgraph", "diff", str(tmp_path / "x.bin"), str(tmp_path / "x.bin")]
    limited = ["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: not enough memory: memory or a thread was refused; free some, or give less to do")


def test_a_library_larger_than_files_may_be(tmp_path: Path) -> None:
    """It is loaded from a file in memory, to which the limit of files applies: compiling again would not help."""
    session = object.__new__(Session)
    session._directory = tmp_path
    too_large = MachineCode(b"\x7fELF" * 1000, tmp_path / "kernels.so")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, before[1]))
    try:
        with pytest.raises(ArtifactError, match="larger than files may be here; raise the limit"):
            session._guarded(too_large.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.contract("ERR-LIMIT-1")
def test_no_bytecode_is_cut(tmp_path: Path) -> None:
    """Python looks at no more than whether a file of bytecode could be written, and every later import would fail."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    environment = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    run_python("", cwd=tmp_path, env=environment)  # what Python itself starts with
    for preexec in (limit, None):
        assert run_process("stages", cwd=tmp_path, env=environment, preexec=preexec).code == 0
    ours = [path for path in (tmp_path / "cache").rglob("*.pyc") if "aprgraph" in str(path)]
    assert any(path.stat().st_size > 10_000 for path in ours)
    for path in ours:
        marshal.loads(path.read_bytes()[16:])

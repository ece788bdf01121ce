"""What is compiled under a limit for the size of files is whole, or refused."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aprgraph.codegen.file_in_memory import file_in_memory
from aprgraph.graph.errors import ToolchainError
from tests.support.cli import error_of, run_process


@pytest.fixture
def _limited() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(size: int) -> Callable[[str], None]:
    def to(name: str) -> None:
        try:
            with Path(name).open("wb", buffering=1024) as file:
                file.write(bytes(size))
        except OSError:  # as TVM, which does not look
            pass

    return to


@pytest.mark.usefixtures("_limited")
@pytest.mark.contract("ERR-LIMIT-1")
def test_a_file_that_the_limit_has_cut_is_refused() -> None:
    assert file_in_memory(write(4000)) == bytes(4000)
    with pytest.raises(ToolchainError, match="files may have 4,096 bytes here, expected at least 4,097 to compile with; raise the limit"):
        file_in_memory(write(5000))
    with pytest.raises(ToolchainError, match="expected at least 67,108,864"):  # before LLVM ends the process
        file_in_memory(write(1), room=64 << 20)


@pytest.mark.contract("ERR-LIMIT-1")
def test_nothing_of_it_is_kept(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    environment = {"APRGRAPH_CACHE": str(tmp_path / "cache")}
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # noqa: E731
    run = ("run", tiny_model(), "--tokens", "1,2")
    assert "raise the limit (`ulimit -f` of the shell)" in error_of(run_process(*run, cwd=tmp_path, env=environment, preexec=limit))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]

"""Files that a kernel makes: as those of ``write_aprt``, whatever is in the way."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.calling_convention import FILES_KERNEL
from aprgraph.graph.errors import TraceError
from aprgraph.runtime import native_files
from aprgraph.runtime.native_files import write_natively
from aprgraph.runtime.trace.aprt import read_aprt, write_aprt
from aprgraph.runtime.trace.writing_between import ToWrite, WriteFiles
from aprgraph.runtime.tvm_runtime import load_tvm_runtime
from aprgraph.runtime.tvm_session import Session
from tests.support.compiled import compiled, shared_model

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Session:
    model = compiled(shared_model(tiny_model))
    return Session(model.artifact.kernel_code, model.model)


@pytest.fixture(params=[1, 3])
def write(request: pytest.FixtureRequest, session: Session, monkeypatch: pytest.MonkeyPatch) -> WriteFiles:
    """On one thread and on several, however little there is to write."""
    monkeypatch.setattr(native_files, "_WORTH", 1)
    return partial(write_natively, session.kernels[FILES_KERNEL], load_tvm_runtime().from_dlpack, request.param)


def tensors(folder: Path, sizes: Sequence[int]) -> list[ToWrite]:
    return [
        (str(folder / f"{number}.bin"), number if number % 3 else None, RNG.standard_normal(size).astype(np.float32))
        for number, size in enumerate(sizes)
    ]


def check(written: Sequence[ToWrite]) -> None:
    for path, layer, values in written:
        found_layer, found = read_aprt(path)
        assert (found_layer, found.tobytes()) == (layer, values.tobytes())
        assert Path(path).stat().st_mode == Path(written[0][0]).stat().st_mode


def test_files_are_those_of_one_after_the_other(write: WriteFiles, tmp_path: Path) -> None:
    given = tensors(tmp_path, [0, 1, 70_000, 3, 5, 20_000, *range(7, 40), 300_000])
    write(given)
    check(given)
    write_aprt(tmp_path / "alone.bin", *given[2][1:])
    assert (tmp_path / "alone.bin").read_bytes() == Path(given[2][0]).read_bytes()
    assert (tmp_path / "alone.bin").stat().st_mode == Path(given[2][0]).stat().st_mode
    assert not os.get_inheritable(os.open(given[2][0], os.O_RDONLY))


def test_one_file(write: WriteFiles, tmp_path: Path) -> None:
    given = tensors(tmp_path, [5])
    write(given)
    check(given)


def test_what_is_there_is_replaced_once_the_new_file_is_whole(write: WriteFiles, tmp_path: Path) -> None:
    given = tensors(tmp_path, [4, 5, 6, 7])
    Path(given[1][0]).write_text("old")
    Path(given[2][0]).symlink_to("nowhere")
    write(given)
    check(given)
    assert not Path(given[2][0]).is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.contract("ERR-WRITE-1")
def test_a_place_that_is_not_there_is_an_error_that_names_it(write: WriteFiles, tmp_path: Path) -> None:
    given = tensors(tmp_path, [4, 5, 6])
    given[1] = (str(tmp_path / "gone" / "1.bin"), *given[1][1:])
    with pytest.raises(TraceError, match=r"gone/1\.bin: cannot be written: No such file or directory"):
        write(given)
    check([given[0], given[2]])


@pytest.mark.contract("ERR-WRITE-1")
def test_no_part_of_a_file_is_left(write: WriteFiles, tmp_path: Path) -> None:
    """Where the system takes no more of it; what was there stays."""
    given = tensors(tmp_path, [10, 5000, 20, 6000])
    Path(given[3][0]).write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(TraceError, match=r"[13]\.bin: cannot be written: File too large"):
            write(given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check([given[0], given[2]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.bin", "2.bin", "3.bin"]
    assert Path(given[3][0]).read_text() == "old"

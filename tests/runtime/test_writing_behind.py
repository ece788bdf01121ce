"""Tensors of a trace are written while others are computed: what is in the files, and what becomes of an error or an interrupt."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace import writing_behind
from aprgraph.runtime.trace.aprt import read_aprt, write_aprt
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.trace.writing_behind import WritingBehind

INFO = TraceInfo({"name": "m"}, "numpy", (0,), "lm_head 0..1", "all", "")
LEAST = writing_behind._LEAST
LARGE = LEAST // 4


def test_values_are_those_at_the_time_of_the_call_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever computes writes the next value into the same memory; more than is let be on its way waits."""
    monkeypatch.setattr(writing_behind, "_MOST", 3 * LEAST)
    behind, value = WritingBehind(), np.zeros((2, LARGE // 2), np.float32)
    for number in range(20):
        value[:] = number
        behind.write(str(tmp_path / f"{number}.bin"), number, value)
        assert behind._taken() <= 3 * LEAST
    behind.wait()
    behind.stop()
    for number in range(20):
        layer, found = read_aprt(tmp_path / f"{number}.bin")
        assert (layer, set(found.tolist()), found.size) == (number, {float(number)}, LARGE)


def test_small_tensors_are_written_together(tmp_path: Path) -> None:
    """Between large ones, and with no more under way than is let be; the last few when all are waited for."""
    behind, value = WritingBehind(), np.zeros(LARGE, np.float32)
    sizes = [1, 0, LARGE - 1, LARGE, *range(2, 150), LARGE - 2]
    for number, size in enumerate(sizes):
        value[:] = number
        behind.write(str(tmp_path / f"{number}.bin"), None, value[:size])
    assert not (tmp_path / f"{len(sizes) - 1}.bin").exists()
    behind.wait()
    behind.stop()
    found = [read_aprt(tmp_path / f"{number}.bin")[1] for number in range(len(sizes))]
    assert [one.size for one in found] == sizes
    assert all((one == number).all() for number, one in enumerate(found))


@pytest.mark.parametrize("count", [1, LARGE])
def test_an_error_is_raised_before_a_trace_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    def fails(path: str, *_: object) -> None:
        raise TraceError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(writing_behind, "write_aprt", fails)
    writer = TraceWriter(tmp_path / "t")
    writer.write("lm_head", "lm_head", None, 0, np.ones(count, np.float32))
    with pytest.raises(TraceError, match=r"lm_head\.bin: cannot be written: No space left"):
        writer.finish(INFO)
    writer.close()
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["trace.incomplete"]


def test_of_large_tensors_only_what_has_begun_is_written_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an interrupt: files that are being written become whole, small ones are written, and no thread is left."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: str, layer: int | None, values: np.ndarray) -> None:
        begun.set()
        assert go_on.wait(10)
        write_aprt(path, layer, values)

    monkeypatch.setattr(writing_behind, "write_aprt", slow)
    monkeypatch.setattr(writing_behind, "_FILES", 1)
    writer = TraceWriter(tmp_path / "t")
    for layer in range(5):
        writer.write(f"layer{layer}.attn_out", "attn_out", layer, 0, np.ones(LARGE, np.float32))
    assert begun.wait(10)
    writer.write("lm_head", "lm_head", None, 0, np.ones(3, np.float32))
    threading.Timer(0.05, go_on.set).start()
    writer.close()
    assert read_aprt(tmp_path / "t" / "lm_head.bin")[1].size == 3
    (tmp_path / "t" / "lm_head.bin").unlink()
    assert [path.parent.name for path in sorted((tmp_path / "t").rglob("*.bin"))] == ["layer-0"]
    assert not any(thread.name.startswith("aprgraph-writing") for thread in threading.enumerate())

"""Tensors that are held until many are written at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace import writing_between
from aprgraph.runtime.trace.aprt import read_aprt
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.trace.writing_between import ToWrite, WritingBetween, write_each

SMALL = writing_between._SMALL // 4


def test_so_many_are_held_or_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_between, "_COUNT", 4)
    monkeypatch.setattr(writing_between, "_BYTES", 100)
    written: list[list[int]] = []
    writing = WritingBetween(lambda tensors: written.append([values.size for _, _, values in tensors]))
    for size in (1, 2, 3, 4, 20, 5, 6, 7):
        writing.write("path", None, np.zeros(size, np.float32))
    assert written == [[1, 2, 3, 4], [20, 5]]
    for _ in range(2):
        writing.wait()
    assert written[2:] == [[6, 7]]


def test_nothing_is_copied(tmp_path: Path) -> None:
    value, seen = np.arange(6, dtype=np.float32), []
    writer = TraceWriter(tmp_path / "t")
    writer.write_values_that_stay(seen.extend)
    writer.write("lm_head", "lm_head", None, 0, value.reshape(2, 3))
    writer.wait()
    assert [(path, layer) for path, layer, _ in seen] == [(str(tmp_path / "t" / "lm_head.bin"), None)]
    assert np.shares_memory(seen[0][2], value)


def test_what_is_held_and_small_is_written_at_the_end(tmp_path: Path) -> None:
    """As after an interrupt; and none of it where a file cannot be written."""
    writer = TraceWriter(tmp_path / "t")
    writer.write_values_that_stay(write_each)
    for layer, size in enumerate((3, SMALL, 5)):
        writer.write(f"layer{layer}.attn_out", "attn_out", layer, 0, np.ones(size, np.float32))
    writer.close()
    assert [path.parent.name for path in sorted((tmp_path / "t").rglob("*.bin"))] == ["layer-0", "layer-2"]
    assert read_aprt(tmp_path / "t" / "layer-2" / "attn_out.bin")[1].size == 5


def test_an_error_is_raised_and_what_was_held_is_not_tried_again(tmp_path: Path) -> None:
    tried: list[int] = []

    def fail(tensors: Sequence[ToWrite]) -> None:
        tried.append(len(tensors))
        raise TraceError("no space")

    writing = WritingBetween(fail)
    writing.write("path", None, np.zeros(3, np.float32))
    with pytest.raises(TraceError, match="no space"):
        writing.wait()
    writing.stop()
    assert tried == [1]

"""Tensors that are recorded in parts."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace.aprt import read_aprt, write_aprt
from aprgraph.runtime.trace.partial_tensor import PartialTensor
from aprgraph.runtime.trace.writer import TraceWriter


def test_parts_become_the_file_that_the_whole_would_be(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    values[:, np.triu(np.ones((5, 5), bool), 1)] = 0  # as scores are
    values[1, 4, 4] = np.nan
    partial = PartialTensor(str(tmp_path / "x.bin"), 3, values.shape)
    assert not (tmp_path / "x.bin").exists()
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        partial.put(values[:, start:stop, :stop], 1, start)
    partial.keep()
    write_aprt(tmp_path / "whole.bin", 3, values)
    assert (tmp_path / "x.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.bin", "x.bin"]


def test_it_takes_the_place_of_an_older_file(tmp_path: Path) -> None:
    write_aprt(tmp_path / "x.bin", None, np.ones(7, np.float32))
    partial = PartialTensor(str(tmp_path / "x.bin"), None, (2, 3))
    partial.put(np.full((2, 3), 5, np.float32), 0, 0)
    partial.keep()
    layer, values = read_aprt(tmp_path / "x.bin")
    assert (layer, values.tolist()) == (None, [5.0] * 6)


def test_a_run_that_fails_leaves_no_part(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t")
    writer.reserve("attn_scores", 0, 0, (4, 9, 9))
    assert len(list((tmp_path / "t" / "layer-0").iterdir())) == 1
    writer.close()
    assert list((tmp_path / "t" / "layer-0").iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no/x\.bin: cannot be written: No such file or directory"):
        PartialTensor(str(tmp_path / "no" / "x.bin"), 0, (3,))


@pytest.mark.contract("ERR-WRITE-1")
def test_a_tensor_in_parts_that_cannot_be_mapped_is_named_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any, **_named: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory", "hidden.tmp")

    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(TraceError, match=r"ffn_out\.bin: cannot be written: Cannot allocate memory"):
        PartialTensor(str(tmp_path / "ffn_out.bin"), 0, (3, 4))
    assert list(tmp_path.iterdir()) == []

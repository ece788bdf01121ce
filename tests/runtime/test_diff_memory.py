"""Traces larger than the memory that comparing them takes; each element is read once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from aprgraph.runtime.diff import diff, measure, metrics
from aprgraph.runtime.diff.metrics import compare_blocks, compare_tensors
from aprgraph.runtime.trace import aprt
from aprgraph.runtime.trace.aprt import give_back, pack_header, read_aprt, write_aprt
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import Tensor, noisy, values, write_trace

MB = 1 << 20
_POSITIONS, _WIDTH = 18_750, 4096
#: A process that compares two traces, and says by how many bytes its resident set, mapped pages included, went up at most.
_MEASURE = """
import sys
from aprgraph.runtime.diff import diff

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

small, large = sys.argv[1:3], sys.argv[3:]
diff(*small)  # everything is imported
before = memory("VmRSS")
report = diff(*large)
row, = report.rows
print(memory("VmHWM") - before, row.classification.value, row.metrics.max_index[0], row.metrics.rms_a)
"""


def _write_large(directory: Path, rows: Mapping[int, Tensor]) -> None:
    """One file of [positions, width] that is 0 but for ``rows``: its holes are read like anything else."""
    count = _POSITIONS * _WIDTH
    path = directory / "layer-0" / "attn_norm.bin"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(pack_header(0, count))
        file.truncate(12 + 4 * count)
        for row, content in rows.items():
            file.seek(12 + 4 * _WIDTH * row)
            file.write(content.tobytes())


@pytest.mark.contract("DIFF-SIZE-1")
@pytest.mark.parametrize("identical", [True, False])
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path, identical: bool) -> None:
    """Two files of 307 MB each; the comparison takes 100 MB at most, and what it finds is in their last row."""
    last = values(_WIDTH)
    for name, scale in (("a", 1), ("b", 1 if identical else 2)):
        _write_large(tmp_path / name, {0: last, _POSITIONS - 1: last * np.float32(scale)})
    small = [str(write_trace(tmp_path / name, {(0, "attn_norm"): values(3, 4)}).directory) for name in ("c", "d")]
    large = [str(tmp_path / name / "layer-0" / "attn_norm.bin") for name in ("a", "b")]
    command = [sys.executable, "-c", _MEASURE, *small, *large]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    peak, classification, index, rms = done.stdout.split()
    assert int(peak) < 100 * MB
    assert (classification == "IDENTICAL") == identical
    assert int(index) == (0 if identical else _POSITIONS * _WIDTH - _WIDTH + int(np.abs(last).argmax()))
    assert float(rms) == pytest.approx(np.sqrt(2 * np.square(last, dtype=np.float64).sum() / (_POSITIONS * _WIDTH)))


class _Destroyer:
    """Overwrites with NaN, in its file, what a comparison has given back: whoever reads it again finds no number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.destroyed = 0
        self._loaded: list[Tensor] = []
        load = Trace.load_unverified

        def remember(trace: Trace, entry: TraceEntry) -> Tensor:
            self._loaded.append(load(trace, entry))
            return self._loaded[-1]

        monkeypatch.setattr(Trace, "load_unverified", remember)
        for module in (metrics, measure):
            monkeypatch.setattr(module, "give_back", self.destroy)

    def destroy(self, part: Tensor) -> None:
        give_back(part)
        first, last = byte_bounds(part)
        for whole in self._loaded:
            start, end = byte_bounds(whole)
            if isinstance(whole, np.memmap) and start <= first < last <= end:
                self.destroyed += part.size
                with Path(whole.filename).open("r+b") as file:
                    file.seek(12 + first - start)
                    file.write(np.full(part.size, np.nan, np.float32).tobytes())
                return
        pytest.fail("what is given back is no part of a tensor that was loaded")


@pytest.mark.contract("DIFF-SIZE-1")
@pytest.mark.parametrize("difference", ["none", "noise", "nan", "slots"])
def test_each_element_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: str) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 1000)
    monkeypatch.setattr(measure, "BLOCK", 1000)
    monkeypatch.setattr(aprt, "SMALL", aprt.HEADER.size)  # so that these are mapped into memory
    shape = (50, 4, 30)
    stage = "moe_expert_out"
    a = values(*shape)
    b = noisy(a) if difference == "noise" else a.copy()
    if difference == "nan":
        a[7, 1, 2], b[40, 3, 29] = np.nan, np.inf
    ids = np.tile(np.arange(4, dtype=np.float32), (50, 1))
    other_ids = ids.copy()
    if difference == "slots":
        other_ids[:, :2] = ids[:, 1::-1]
        b[:, :2] = a[:, 1::-1]
    pairs = []
    for run in ("kept", "destroyed"):
        sides = ((a, ids), (b, other_ids))
        pairs.append(
            [
                write_trace(tmp_path / run / name, {(0, stage): tensor, (0, "moe_router_indices"): chosen})
                for name, (tensor, chosen) in zip("ab", sides, strict=True)
            ]
        )
    expected = diff(*pairs[0])
    destroyer = _Destroyer(monkeypatch)
    found = diff(*pairs[1])
    assert destroyer.destroyed == a.size + b.size
    assert [row.to_json() for row in found.rows] == [row.to_json() for row in expected.rows]
    assert (found.row((0, 0, stage)).remark is not None) == (difference == "slots")


@pytest.mark.parametrize("shape", [(40, 5, 30), (7, 3000), (90, 2)])
def test_blocks_give_the_numbers_of_the_whole(shape: tuple[int, ...]) -> None:
    a = values(*shape)
    b = noisy(a, 1e-3)
    ends = [0, 1, 3, shape[0]]
    found = compare_blocks(shape, [(a[i:j], b[i:j]) for i, j in pairwise(ends)])
    whole = compare_tensors(a, b)
    assert found.nmse == pytest.approx(whole.nmse, rel=1e-6)
    assert (found.max_abs, found.max_index, found.count) == (whole.max_abs, whole.max_index, whole.count)
    assert found.channels is not None
    assert whole.channels is not None
    assert found.channels.worst == whole.channels.worst
    assert found.positions is not None
    assert whole.positions is not None
    assert found.positions.worst == whole.positions.worst
    assert found.positions.local_nmse == pytest.approx(whole.positions.local_nmse, rel=1e-6)


def test_of_equal_errors_the_first_is_named() -> None:
    """Wide tensors are cut into pieces of several rows, which do not lie in the order of the elements."""
    a = values(40, 40_000)
    b = a.copy()
    for row, column in ((5, 5), (3, 39_000), (3, 38_000)):
        a[row, column], b[row, column] = 0.0, 9.0
    assert compare_tensors(a, b).max_index == (3, 38_000)


def test_pages_of_a_file_come_back_unchanged(tmp_path: Path) -> None:
    tensor = values(100, 300)
    write_aprt(tmp_path / "x.bin", None, tensor)
    _, mapped = read_aprt(tmp_path / "x.bin")
    for part in (mapped, mapped[1:2], mapped.reshape(100, 300)[99:], mapped[:0]):
        give_back(part)
        assert np.array_equal(mapped.reshape(100, 300), tensor)


def test_changes_that_are_in_no_file_are_not_given_back(tmp_path: Path) -> None:
    tensor = values(100, 300)
    write_aprt(tmp_path / "x.bin", None, tensor)
    changed = np.memmap(tmp_path / "x.bin", np.float32, "c", 12, (100, 300))
    changed[:] = 1.0
    give_back(changed)
    assert (changed == 1.0).all()
    assert compare_tensors(changed, tensor).rms_a == 1.0
    assert (changed == 1.0).all()

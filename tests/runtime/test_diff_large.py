"""Large traces are compared several tensors at once: the report is that of one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.diff import compare, diff
from tests.support.traces import write_trace

RNG = np.random.default_rng(3)
STAGES = ("attn_norm", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_out")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    values = {(layer, stage): RNG.standard_normal((4, 64)).astype(np.float32) for layer in range(3) for stage in STAGES}
    wrong = {key: value.copy() for key, value in values.items()}
    wrong[1, "ffn_gate"][2, 5] += 1
    for name, tensors in (("a", values), ("b", wrong)):
        write_trace(tmp_path / name, tensors, tokens=(1, 2, 3, 4))
    return tmp_path / "a", tmp_path / "b"


def test_the_report_is_the_same(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = diff(*sides).to_json()
    monkeypatch.setattr(compare, "_LARGE", 0)
    labels: list[str] = []
    together = diff(*sides, progress=lambda _done, _total, label: labels.append(label)).to_json()
    assert together == one_by_one
    assert len(labels) == len(set(labels)) == 3 * len(STAGES)


def test_the_first_file_that_cannot_be_read_is_named(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_LARGE", 0)
    for layer in (2, 1):
        (sides[0] / f"layer-{layer}" / "attn_out.bin").write_bytes(b"APRT")
    with pytest.raises(TraceError, match=r"layer-1/attn_out\.bin"):
        diff(*sides)

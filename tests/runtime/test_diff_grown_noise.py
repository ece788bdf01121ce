"""Noise of float32 that a model makes larger is no divergence, and what is more than that is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.runtime.diff import DiffReport, diff
from tests.support.traces import Tensor, write_trace

N, WIDE = 10, 64
RNG = np.random.default_rng(3)
#: A hidden state whose first positions have two numbers a thousand times as large as all others.
STREAM = RNG.standard_normal((N, WIDE))
STREAM[:7, (3, 40)] *= 20_000
WEIGHT = 1 + 0.1 * RNG.standard_normal(WIDE)
WEIGHT[[3, 40]] = 0.01
BIAS = 0.1 * RNG.standard_normal(WIDE)
MATRIX = RNG.standard_normal((96, WIDE)) / 8


def rms_norm(x: Tensor) -> Tensor:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5) * WEIGHT


def layer_norm(x: Tensor) -> Tensor:
    apart = x - x.mean(axis=-1, keepdims=True)
    return apart / np.sqrt(np.square(apart).mean(axis=-1, keepdims=True) + 1e-5) * WEIGHT + BIAS


def side(at: float, norm: Callable[[Tensor], Tensor] = rms_norm) -> dict[tuple[int | None, str], Tensor]:
    """What a side recorded whose hidden state is off by ``at`` of itself at position 8."""
    stream = STREAM.copy()
    stream[8] *= 1 + at * np.random.default_rng(7).standard_normal(WIDE)
    normed = norm(stream)
    tensors = {(0, "post_ffn_residual"): stream, (1, "attn_norm"): normed, (1, "qkv_matmul"): normed @ MATRIX.T}
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def compared(tmp_path: Path, a: dict[tuple[int | None, str], Tensor], b: dict[tuple[int | None, str], Tensor]) -> DiffReport:
    forward = diff(write_trace(tmp_path / "a", a), write_trace(tmp_path / "b", b), profile="same-graph-f32")
    back = diff(tmp_path / "b", tmp_path / "a", profile="same-graph-f32")
    assert [row.classification for row in forward.rows] == [row.classification for row in back.rows]
    return forward


@pytest.mark.contract("DIFF-GROWN-1")
@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_what_a_norm_shows_of_its_input_is_no_divergence(tmp_path: Path, norm: Callable[[Tensor], Tensor]) -> None:
    report = compared(tmp_path, side(0.0, norm), side(2e-4, norm))
    stream, normed, product = report.rows
    assert (stream.error or 0.0) < 3e-10 < (normed.error or 0.0) < 1e-7, "the case is one"
    assert (product.error or 0.0) > 3e-10
    assert report.exit_code == 0, report.verdict
    (note,) = [str(note) for note in report.notes if "noise that has grown" in str(note)]
    assert note.startswith("2 tensors differ, from layer 1 attn_norm on, by more than is usual in same-graph-f32 (NMSE ")


@pytest.mark.contract("DIFF-GROWN-1")
@pytest.mark.parametrize(("stage", "factor"), [("attn_norm", 1.0003), ("qkv_matmul", 1.002)])
def test_what_a_stage_adds_to_grown_noise_is_a_divergence(tmp_path: Path, stage: str, factor: float) -> None:
    other = side(2e-4)
    faulty = other[1, stage].copy()
    faulty[9] *= factor
    report = compared(tmp_path, side(0.0), {**other, (1, stage): faulty})
    assert [str(first.key.stage) for first in report.first] == [stage]
    assert report.exit_code == 1


@pytest.mark.contract("DIFF-GROWN-1")
def test_what_does_not_follow_from_what_was_recorded_is_a_divergence(tmp_path: Path) -> None:
    """A norm without its input; more than float32 can make; behind what diverges."""
    without = [{key: value for key, value in one.items() if key[1] != "post_ffn_residual"} for one in (side(0.0), side(2e-4))]
    assert [first.key.stage for first in compared(tmp_path / "without", *without).first] == ["attn_norm"]
    report = compared(tmp_path / "large", side(0.0), side(3e-3))
    assert [first.key.stage for first in report.first] == ["attn_norm"]
    assert report.row((0, 1, "qkv_matmul")).classification.name == "PROPAGATED"

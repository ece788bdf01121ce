"""Honest noise stays within the table, faults do not: measured, for each derivation that can be run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerance_table import markdown
from aprgraph.runtime.diff.tolerances import PROFILES, check_profile, find_tolerance, kind_of
from tests.support.traces import Tensor, noisy, values

F64 = npt.NDArray[np.float64]


def breaks(a: Tensor | F64, b: Tensor | F64, stage: str, profile: str, *, own: bool = False) -> str | None:
    """Which rule the pair breaks."""
    tolerance = find_tolerance(profile, stage)
    metrics = compare_tensors(np.asarray(a, np.float32), np.asarray(b, np.float32))
    return exceeds(metrics, tolerance.own if own else tolerance.limit)


def test_every_profile_has_an_entry_with_its_derivation_for_every_kind() -> None:
    for profile, table in PROFILES.items():
        assert set(table) == set(StageKind), profile
        for kind, tolerance in table.items():
            assert len(tolerance.derivation) > 40, (profile, kind)
            assert 0 <= tolerance.own <= tolerance.limit < 1, (profile, kind)


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(ComparisonError, match=r"'loose'.*same-graph-f32, same-graph-f16.*cross-engine-q8act.*quant-vs-float"):
        check_profile("loose")


def test_a_name_that_is_no_stage_is_held_to_what_a_matmul_is() -> None:
    assert kind_of("something_else") is StageKind.MATMUL


def test_the_page_of_the_table_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "tolerances.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run `python -m aprgraph.runtime.diff.tolerance_table > docs/tolerances.md`, and raise TABLE_VERSION if a number has changed"
    )
    assert all(f"## {profile}" in markdown() for profile in PROFILES)


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("seed", range(20))
def test_another_order_of_summation_is_noise(seed: int) -> None:
    x, w = values(3, 4096, seed=seed), values(4096, 120, seed=seed + 100)
    # One after the other, the worst order there is, against pairwise sums of the reversed products.
    products = x[:, :, None] * w[None]
    one = np.cumsum(products, axis=1, dtype=np.float32)[:, -1]
    other = np.ascontiguousarray(products[:, ::-1].transpose(0, 2, 1)).sum(axis=-1, dtype=np.float32)
    assert not np.array_equal(one, other)
    assert breaks(one, other, "ffn_gate", "same-graph-f32", own=True) is None


def test_float16_inputs_are_not() -> None:
    x, w = values(8, 1024).astype(np.float64), values(1024, 200, seed=5).astype(np.float64)
    assert breaks(x @ w, x.astype(np.float16).astype(np.float64) @ w, "ffn_gate", "same-graph-f32")


@pytest.mark.parametrize("seed", range(20))
def test_activations_rounded_to_8_bits_are_noise_across_engines_only(seed: int) -> None:
    x, w = values(8, 1024, seed=seed).astype(np.float64), values(1024, 300, seed=seed + 100).astype(np.float64)
    blocks = x.reshape(8, -1, 32)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    rounded = (np.round(blocks / scale) * scale).reshape(x.shape)
    assert breaks(x @ w, rounded @ w, "ffn_gate", "cross-engine-q8act", own=True) is None
    assert breaks(x @ w, rounded @ w, "ffn_gate", "same-graph-f32")


@pytest.mark.contract("DIFF-LOCAL-1")
def test_two_swapped_rows_of_4096_are_found_though_the_whole_is_within_the_limit() -> None:
    x, w = values(16, 256).astype(np.float64), values(256, 4096, seed=5).astype(np.float64)
    swapped = w.copy()
    swapped[:, [17, 900]] = w[:, [900, 17]]
    a, b = x @ w, noisy(np.asarray(x @ swapped, np.float32), 0.03)
    limit = find_tolerance("cross-engine-q8act", "ffn_gate").limit
    metrics = compare_tensors(np.asarray(a, np.float32), b)
    assert metrics.nmse is not None
    assert metrics.nmse < limit
    reason = exceeds(metrics, limit)
    assert reason is not None
    assert "channel 17 alone" in reason or "channel 900 alone" in reason
    assert breaks(a, noisy(np.asarray(a, np.float32), 0.03), "ffn_gate", "cross-engine-q8act") is None


@pytest.mark.contract("DIFF-LOCAL-1")
def test_one_wrong_position_of_500_is_found_though_the_whole_is_within_the_limit() -> None:
    a = values(500, 64)
    b = noisy(a, 0.03)
    b[321] = values(1, 64, seed=8)[0]
    assert "position 321 alone" in str(breaks(a, b, "attn_out", "cross-engine-q8act"))


@pytest.mark.contract("DIFF-LOCAL-1")
def test_all_of_an_honest_error_in_one_large_channel_is_noise() -> None:
    a = values(32, 576)
    a[:, 100] *= 3000
    b = a.copy()
    b[:, 100] = noisy(a[:, 100])
    metrics = compare_tensors(a, b)
    assert metrics.channels is not None
    assert metrics.channels.share == 1.0
    assert metrics.channels.signal_share > 0.99
    assert breaks(a, b, "post_ffn_residual", "same-graph-f32") is None


def test_three_elements_that_differ_in_the_last_bit_are_noise() -> None:
    a = values(7, 576)
    b = a.copy()
    for column in (3, 90, 400):
        b[2, column] = np.nextafter(a[2, column], np.float32(9))
    metrics = compare_tensors(a, b)
    assert metrics.channels is not None
    assert metrics.channels.share == 1.0
    assert breaks(a, b, "ffn_silu", "same-graph-f32", own=True) is None


def test_float32_angles_stay_within_the_limit_of_rope_as_derived() -> None:
    n, size = 1024, 64
    frequency = 10000.0 ** (-np.arange(0, size, 2) / size)
    exact = np.arange(n)[:, None] * frequency
    rounded = (np.arange(n, dtype=np.float32)[:, None] * frequency).astype(np.float32).astype(np.float64)
    x = values(n, size).astype(np.float64)

    def rotate(angles: F64) -> F64:
        even, odd = x[:, 0::2], x[:, 1::2]
        return np.concatenate([even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)], axis=1)

    error = ((rotate(exact) - rotate(rounded)) ** 2).sum() / (x**2).sum()
    assert error == pytest.approx(1.4e-17 * n**2, rel=0.5)
    assert error < find_tolerance("same-graph-f32", "q_post_rope").own

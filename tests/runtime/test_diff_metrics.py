"""The numbers of one pair of tensors, against the formulas written down plainly."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.runtime.diff import metrics as metrics_module
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.logits import compare_logits
from aprgraph.runtime.diff.metrics import compare_tensors
from tests.support.traces import noisy, values


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 15])
@pytest.mark.parametrize("shape", [(5, 13), (1, 200), (300, 3), (70,), (1, 1)])
def test_the_formulas_hold_however_a_tensor_is_cut(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], piece: int) -> None:
    monkeypatch.setattr(metrics_module, "PIECE", piece)
    a, b = values(*shape), values(*shape, seed=9)
    found = compare_tensors(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = (x - y) ** 2
    assert found.nmse is not None
    assert found.max_index is not None
    assert found.nmse == pytest.approx(error.sum() / max((x * x).sum(), (y * y).sum()), rel=1e-12)
    assert found.sqnr_db == pytest.approx(-10 * np.log10(found.nmse), rel=1e-12)
    assert found.cosine == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), rel=1e-9)
    assert found.rms_a == pytest.approx(np.sqrt((x * x).mean()), rel=1e-12)
    assert found.rms_b == pytest.approx(np.sqrt((y * y).mean()), rel=1e-12)
    assert found.max_abs == pytest.approx(np.abs(x - y).max(), rel=1e-12)
    assert found.max_index == tuple(int(i) for i in np.unravel_index(error.argmax(), shape))
    assert not found.bit_identical
    assert found.count == a.size
    channels = error.reshape(-1, shape[-1]).sum(axis=0)
    count = max(1, shape[-1] // 100)
    assert found.channels is not None
    assert found.channels.worst == tuple(np.argsort(-channels, kind="stable")[:count])
    assert found.channels.share == pytest.approx(np.sort(channels)[-count:].sum() / error.sum(), rel=1e-12)
    if len(shape) > 1:
        assert found.positions is not None
        assert found.positions.worst == (error.sum(axis=1).argmax(),)
        assert found.positions.share == pytest.approx(error.sum(axis=1).max() / error.sum(), rel=1e-12)


def test_positions_lie_along_the_axis_that_is_named() -> None:
    a = values(4, 6, 6)
    b = a.copy()
    b[:, 2, :] += 1
    found = compare_tensors(a, b, position_axis=1).positions
    assert found is not None
    assert (found.size, found.worst, found.share) == (6, (2,), 1.0)


@pytest.mark.contract("DIFF-IDENTICAL-1")
def test_the_same_bits_are_identical_and_a_zero_of_another_sign_is_not() -> None:
    a = values(3, 5)
    assert compare_tensors(a, a.copy()).bit_identical
    a[1, 1] = 0.0
    b = a.copy()
    b[1, 1] = -0.0
    found = compare_tensors(a, b)
    assert not found.bit_identical
    assert found.nmse == 0.0
    assert found.max_abs == 0.0


@pytest.mark.parametrize("piece", [4, 1 << 15])
def test_what_is_not_finite_is_counted_and_takes_no_part_in_the_sums(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(metrics_module, "PIECE", piece)
    a, b = values(4, 8), values(4, 8, seed=2)
    a[0, 0] = np.nan
    a[1, 1], b[1, 1] = np.inf, np.inf
    a[2, 2], b[2, 2] = np.inf, -np.inf
    a[3, 3], b[3, 3] = np.nan, np.nan
    b[0, 5] = np.nan
    found = compare_tensors(a, b)
    assert (found.nan_a, found.nan_b, found.inf_a, found.inf_b) == (2, 2, 2, 2)
    assert found.mismatched_nonfinite == 3
    both = np.isfinite(a) & np.isfinite(b)
    x, y = (np.where(both, side, 0).astype(np.float64) for side in (a, b))
    assert found.nmse == pytest.approx(((x - y) ** 2).sum() / max((x * x).sum(), (y * y).sum()), rel=1e-12)
    own = a[np.isfinite(a)].astype(np.float64)
    assert found.rms_a == pytest.approx(np.sqrt((own * own).mean()), rel=1e-12)


def test_nothing_finite_gives_no_number() -> None:
    nothing = np.full((2, 3), np.nan, np.float32)
    found = compare_tensors(nothing, nothing.copy())
    assert found.bit_identical
    assert found.mismatched_nonfinite == 0
    assert found.nmse is None
    assert found.cosine is None
    assert found.rms_a is None
    assert found.max_abs is None


def test_a_channel_of_zeros_is_a_lost_one_unless_zeros_are_common() -> None:
    whole = values(8, 40)
    lost = whole.copy()
    lost[:, 3] = 0.0
    assert compare_tensors(whole, lost).dead_channels == (3,)
    whole[np.arange(8) != 2] *= values(7, 40) > 0.5  # as behind a gate that is cut off
    lost = whole.copy()
    lost[:, 3] = 0.0
    assert compare_tensors(whole, lost).dead_channels == ()


def test_against_zeros() -> None:
    zeros, other = np.zeros((2, 3), np.float32), values(2, 3)
    assert compare_tensors(zeros, zeros.copy()).nmse == 0.0
    found = compare_tensors(zeros, other)
    assert found.nmse == pytest.approx(1.0)
    assert found.cosine is None


def test_values_at_the_edge_of_float32_do_not_overflow() -> None:
    a = np.full((2, 4), 3e38, np.float32)
    found = compare_tensors(a, -a)
    assert found.nmse == pytest.approx(4.0)
    assert found.cosine == -1.0
    assert found.mismatched_nonfinite == 0


def test_a_small_error_is_not_lost_in_rounding() -> None:
    a = values(64, 64)
    b = a.astype(np.float64)
    b[3, 3] = np.nextafter(a[3, 3], np.float32(9))
    found = compare_tensors(a, b.astype(np.float32))
    step = float(np.nextafter(a[3, 3], np.float32(9))) - float(a[3, 3])
    assert found.max_abs == step
    assert found.nmse == pytest.approx(step**2 / (a.astype(np.float64) ** 2).sum(), rel=1e-6)


def test_the_order_of_the_two_sides_does_not_matter() -> None:
    a, b = values(6, 300), noisy(values(6, 300), 0.3)
    one, other = compare_tensors(a, b), compare_tensors(b, a)
    assert (one.nmse, one.max_abs, one.channels, one.positions) == (other.nmse, other.max_abs, other.channels, other.positions)
    assert one.cosine == pytest.approx(other.cosine, rel=1e-14)


def test_a_flat_tensor_has_neither_positions_nor_channels() -> None:
    found = compare_tensors(values(1000), values(1000, seed=3), structured=False)
    assert found.positions is None
    assert found.channels is None
    assert found.nmse is not None


def test_logits() -> None:
    a = np.array([[9, 9, 9, 9], [0.0, 1.0, 2.0, 4.0]], np.float32)
    b = np.array([[0, 0, 0, 0], [0.0, 3.5, 2.0, 3.0]], np.float32)
    found = compare_logits(a, b, 2)
    assert found is not None
    assert (found.argmax_a, found.argmax_b, found.margin_a, found.margin_b) == (3, 1, 2.0, 0.5)
    assert (found.top, found.top_overlap) == (2, 1)
    p, q = (np.exp(side[-1].astype(np.float64)) / np.exp(side[-1].astype(np.float64)).sum() for side in (a, b))
    assert found.kl_ab == pytest.approx((p * np.log(p / q)).sum())
    assert found.kl_ba == pytest.approx((q * np.log(q / p)).sum())
    same = compare_logits(a, a, 10)
    assert same is not None
    assert same.kl_ab == 0.0
    assert same.top == same.top_overlap == 4
    a[1, 0] = np.inf
    assert compare_logits(a, b, 2) is None


def test_ids_are_sets_per_position() -> None:
    a = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    b = np.array([[1, 2], [4, 3], [5, 7]], np.float32)
    found = compare_indices(a, b)
    assert found is not None
    assert (found.positions, found.differing, found.reordered, found.first) == (3, 1, 1, 2)
    assert not found.bit_identical


def test_flat_ids_are_judged_only_where_that_is_certain() -> None:
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([1, 3, 2, 4], np.float32)
    assert compare_indices(a, b, structured=False) is None
    other = compare_indices(a, np.array([1, 2, 3, 9], np.float32), structured=False)
    same = compare_indices(a, a.copy(), structured=False)
    assert other is not None
    assert other.differing == 1
    assert same is not None
    assert same.bit_identical


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25])
@pytest.mark.parametrize("differing", ["none", "last", "one side"])
@pytest.mark.parametrize("shape", [(600, 700), (40, 20000)])
def test_what_is_equal_before_a_difference_counts(
    monkeypatch: pytest.MonkeyPatch, scale: float, differing: str, shape: tuple[int, int]
) -> None:
    """Sums over equal parts are put off: with a difference behind them they are those of tensors that differ everywhere."""
    monkeypatch.setattr(metrics_module, "PIECE", 1 << 15)
    a = values(*shape) * np.float32(scale)
    b = a.copy()
    if differing == "last":
        b[-1, 5] *= 2
    elif differing == "one side":
        b[-1, 5] = np.nan
    found = compare_tensors(a, b)
    finite = np.isfinite(a) & np.isfinite(b)
    wide, other = (np.where(finite, side, 0).astype(np.float64) for side in (a, b))
    energy = np.square(wide).sum()
    assert found.bit_identical == (differing == "none")
    assert found.rms_a == pytest.approx(np.sqrt(np.square(a.astype(np.float64)).mean()), rel=1e-6)
    assert found.nmse == pytest.approx(np.square(wide - other).sum() / np.maximum(energy, np.square(other).sum()), rel=1e-6)
    assert found.cosine == pytest.approx(1.0, abs=1e-4)
    if differing == "last":
        assert found.channels is not None
        assert found.positions is not None
        columns = np.maximum(np.square(wide).sum(axis=0), np.square(other).sum(axis=0))
        worst = list(found.channels.worst)
        assert worst[0] == 5
        assert found.channels.signal_share == pytest.approx(columns[worst].sum() / columns.sum(), rel=1e-6)
        assert found.positions.worst == (shape[0] - 1,)


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-22, 1e18, 1e20])
@pytest.mark.parametrize("columns", [256, 700, 1031, 4608, 70_000])
def test_sums_of_large_pieces_are_those_of_float64(columns: int, scale: float) -> None:
    """Parts of them are added in float32, where squares are no numbers too large or too small for it."""
    a = values(200_000 // columns, columns) * np.float32(scale)
    b = noisy(a, 1e-5)
    x, y = a.astype(np.float64), b.astype(np.float64)
    error, signal = np.square(x - y), np.maximum(np.square(x).sum(axis=0), np.square(y).sum(axis=0))
    found = compare_tensors(a, b)
    assert found.nmse == pytest.approx(error.sum() / max(np.square(x).sum(), np.square(y).sum()), rel=1e-6)
    assert found.rms_a == pytest.approx(np.sqrt(np.square(x).mean()), rel=1e-6)
    assert found.max_abs == pytest.approx(np.abs(x - y).max(), rel=1e-7)
    assert found.channels is not None
    assert found.positions is not None
    assert found.channels.worst[0] == error.sum(axis=0).argmax()
    worst = list(found.channels.worst)
    assert found.channels.signal_share == pytest.approx(signal[worst].sum() / signal.sum(), rel=1e-6)
    assert found.positions.worst == (error.sum(axis=1).argmax(),)
    assert found.positions.share == pytest.approx(error.sum(axis=1).max() / error.sum(), rel=1e-6)


@pytest.mark.parametrize("tiny", [0.0, 1e-25])
def test_a_channel_of_tiny_numbers_is_no_channel_of_zeros(tiny: float) -> None:
    """Their squares are 0 in float32."""
    a = values(64, 1024)
    b = noisy(a, 1e-5)
    b[:, 7] = tiny
    found = compare_tensors(a, b)
    assert found.dead_channels == (() if tiny else (7,))
    assert found.channels is not None
    assert found.channels.worst[0] == 7


def test_a_row_of_tiny_errors_is_measured() -> None:
    a = values(64, 1024)
    a[5] *= np.float32(1e-20)
    b = noisy(a, 1e-5)
    b[[row for row in range(64) if row != 5]] = a[[row for row in range(64) if row != 5]]
    found = compare_tensors(a, b)
    assert found.nmse == pytest.approx(np.square(a[5].astype(float) - b[5]).sum() / np.square(a.astype(float)).sum(), rel=1e-6)
    assert found.positions is not None
    assert (found.positions.worst, found.positions.share) == ((5,), 1.0)

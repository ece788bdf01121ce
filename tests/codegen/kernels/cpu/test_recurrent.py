"""Kernels with a state of fixed size, and what goes with them: convolutions, the delta rule, state spaces, heads of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, Weight, f32, reference, request, run, weight, zeros

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)
#: Positions at which a text is divided into passes.
PARTS = (0, 1, 4, 13)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check_state(
    what: KernelRequest, rows: Sequence[np.ndarray], weights: Sequence[Weight], state: tuple[int, ...], columns: int, cpu: Cpu
) -> np.ndarray:
    """One pass and several give the same bits, those of the reference but for rounding; returns the state."""

    def passes(ends: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        held = zeros(*state)
        of_kernel: Any = Weight(what.result, held, held)
        parts = [
            run(what, [*(x[start:end].copy() for x in rows), *weights, of_kernel], (end - start, columns), cpu)
            for start, end in pairwise(ends)
        ]
        return np.concatenate(parts), held

    whole, held = passes((PARTS[0], PARTS[-1]))
    parts, held_then = passes(PARTS)
    assert parts.tobytes() == whole.tobytes()
    assert held_then.tobytes() == held.tobytes()
    assert nmse(whole, reference(what, [*rows, *weights])) < 1e-12
    return held


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("channels", "size", "fmt", "bias"), [(53, 4, "F32", False), (64, 3, "BF16", True), (5, 2, "F16", True)])
def test_short_conv(channels: int, size: int, fmt: str, bias: bool, cpu: Cpu) -> None:
    weights = [weight(fmt, channels, size), *([weight("F32", channels)] if bias else [])]
    what = request("short_conv", [f32("n", channels), *(one.type for one in weights)])
    x = activations(PARTS[-1], channels)
    assert np.array_equal(check_state(what, [x], weights, (size - 1, channels), channels, cpu), x[1 - size :])


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(
    ("heads", "key_heads", "keys", "values", "tiled"), [(4, 2, 16, 16, False), (4, 2, 7, 19, True), (1, 1, 3, 70, False)]
)
def test_delta_rule(heads: int, key_heads: int, keys: int, values: int, tiled: bool, cpu: Cpu) -> None:
    types = [f32("n", key_heads * keys)] * 2 + [f32("n", heads * values)] + [f32("n", heads)] * 2
    what = request("delta_rule", types, key_heads=key_heads, scale=0.3, **({"tiled": True} if tiled else {}))
    n = PARTS[-1]
    q, k, v = activations(n, key_heads * keys), activations(n, key_heads * keys) / 4, activations(n, heads * values)
    decay, beta = -np.abs(activations(n, heads)), np.abs(activations(n, heads)) / 2
    check_state(what, [q, k, v, decay, beta], [], (heads, keys, values), heads * values, cpu)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(
    ("heads", "groups", "keys", "values", "fmt"), [(4, 2, 16, 16, "F32"), (6, 2, 7, 19, "BF16"), (1, 1, 3, 70, "F16"), (3, 3, 1, 1, "F32")]
)
def test_ssm_scan(heads: int, groups: int, keys: int, values: int, fmt: str, cpu: Cpu) -> None:
    skip = weight(fmt, heads)
    types = [f32("n", heads * values), *[f32("n", groups * keys)] * 2, *[f32("n", heads)] * 2, skip.type]
    what, n = request("ssm_scan", types, groups=groups), PARTS[-1]
    x, b, c = activations(n, heads * values), activations(n, groups * keys), activations(n, groups * keys)
    decay, step = -np.abs(activations(n, heads)), np.abs(activations(n, heads))
    check_state(what, [x, b, c, decay, step], [skip], (heads, keys, values), heads * values, cpu)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("heads", "groups", "keys", "fmt"), [(6, 1, 16, "F32"), (6, 2, 7, "BF16"), (5, 1, 37, "F16"), (3, 3, 1, "F32")])
def test_ssm_scan_with_rates(heads: int, groups: int, keys: int, fmt: str, cpu: Cpu) -> None:
    skip, rates = weight(fmt, heads), weight(fmt, heads, keys)
    types = [f32("n", heads), *[f32("n", groups * keys)] * 2, *[f32("n", heads)] * 2, skip.type, rates.type]
    what, n = request("ssm_scan", types, groups=groups), PARTS[-1]
    x, b, c, step = activations(n, heads), activations(n, groups * keys), activations(n, groups * keys), np.abs(activations(n, heads))
    check_state(what, [x, b, c, step, step], [skip, rates], (heads, keys, 1), heads, cpu)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_l2_norm_and_scaled_columns(cpu: Cpu) -> None:
    x, factors, factor = activations(7, 60), weight("F16", 60), weight("F16", 1)
    x[3] = 0
    for what, operands in (
        (request("l2_norm", [f32("n", 60)], eps=1e-6, groups=4), [x]),
        (request("scale_columns", [f32("n", 60), factors.type]), [x, factors]),
        (request("scale_columns", [f32("n", 60), factor.type]), [x, factor]),
    ):
        assert nmse(run(what, operands, (7, 60), cpu), reference(what, operands)) < 1e-12


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_softplus_is_exact_to_the_last_bits_and_keeps_what_is_no_number(cpu: Cpu) -> None:
    what = request("softplus", [f32("n", 4005)])
    x = np.concatenate([np.linspace(-87, 90, 4001), [np.nan, np.inf, -np.inf, -1e-30]]).astype(np.float32)[None]
    got, expected = run(what, [x], x.shape, cpu), reference(what, [x])
    np.testing.assert_allclose(got, expected, rtol=2.5e-7)

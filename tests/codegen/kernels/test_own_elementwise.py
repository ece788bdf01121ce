"""Elementwise ops that a user's file brings, compiled for every CPU level and for CUDA (emulated), against their float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import find_kernel
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ops.registry import elementwise
from tests.support.cuda_kernels import CudaKernels
from tests.support.kernels import RUNNABLE, f32, reference, request, run
from tests.support.own_ops import own_ops

RNG = np.random.default_rng(23)
SIZES = (1, 2, 7, 33)


def _fma(m: Any, a: Any, b: Any, *, steps: int, doubled: bool = True) -> Any:
    return m.fma(a, b, steps) * (2 if doubled else 1) - steps


#: Every function of the arithmetic, operators on either side of a number, attributes of each kind.
FORMULAS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "own_tanh": (lambda m, x, *, cap: m.tanh(x / cap) * cap, {"cap": 5.0}),
    "own_exp": (lambda m, x, *, shift=1.0: 1 - m.exp(-x * shift) / 2, {}),
    "own_sqrt": (lambda m, a, b: m.sqrt(a * a + b * b + 1e-3), {}),
    "own_clamp": (lambda m, x, *, low, high: m.minimum(m.maximum(x, low), high), {"low": -0.5, "high": 1.25}),
    "own_where": (lambda m, a, b: m.where(a > b, a - b, m.where(a <= -1.0, 3, b * 0.25)), {}),
    "own_fma": (_fma, {"steps": 3}),
}


def activations(*shape: int) -> np.ndarray:
    return (3 * RNG.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def requests() -> Iterator[dict[str, list[KernelRequest]]]:
    """Of rows, and of rows of experts."""
    with own_ops():
        made: dict[str, list[KernelRequest]] = {}
        for name, (formula, attrs) in FORMULAS.items():
            op = elementwise(name, formula)
            made[name] = [request(name, [kind] * len(op.operands), **attrs) for kind in (f32("n", 37), f32("n", 3, 5))]
        elementwise("own_shift", lambda m, x, offsets: x - offsets, per_row=["offsets"])
        made["own_shift"] = [request("own_shift", kinds) for kinds in ([f32("n", 37), f32("n", 1)], [f32("n", 3, 5), f32("n", 3, 1)])]
        yield made


@pytest.fixture(scope="module")
def cuda(requests: dict[str, list[KernelRequest]]) -> CudaKernels:
    return CudaKernels([what for several in requests.values() for what in several])


def operands(what: KernelRequest, n: int) -> list[np.ndarray]:
    return [activations(n, *kind.dims[1:]) for kind in what.operands]


def spoiled(what: KernelRequest) -> list[np.ndarray]:
    """NaN and Inf among them."""
    arrays = operands(what, 7)
    for number, array in enumerate(arrays):
        array.flat[number] = np.nan
        array.flat[-1 - number] = (-1) ** number * np.inf
    return arrays


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.contract("FORMULAS-KERNELS-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("name", [*FORMULAS, "own_shift"])
@pytest.mark.parametrize("cpu", RUNNABLE, ids=lambda cpu: cpu.name)
def test_on_the_cpu(name: str, cpu: Any, requests: dict[str, list[KernelRequest]]) -> None:
    for what in requests[name]:
        for arrays in (*(operands(what, n) for n in SIZES), spoiled(what)):
            got = run(what, arrays, arrays[0].shape, cpu)
            close(got, reference(what, arrays))
            alone = run(what, [array[-1:].copy() for array in arrays], (1, *arrays[0].shape[1:]), cpu)
            assert alone.tobytes() == got[-1:].tobytes()


@pytest.mark.contract("FORMULAS-KERNELS-1")
@pytest.mark.parametrize("name", [*FORMULAS, "own_shift"])
def test_for_cuda(name: str, requests: dict[str, list[KernelRequest]], cuda: CudaKernels) -> None:
    for what in requests[name]:
        for arrays in (*(operands(what, n) for n in SIZES), spoiled(what)):
            got = cuda.run(what, arrays, arrays[0].shape)
            close(got, reference(what, arrays))
            alone = cuda.run(what, [array[-1:].copy() for array in arrays], (1, *arrays[0].shape[1:]))
            assert alone.tobytes() == got[-1:].tobytes()


@pytest.mark.parametrize("cpu", RUNNABLE, ids=lambda cpu: cpu.name)
def test_tanh_is_within_two_units_in_the_last_place(cpu: Any) -> None:
    with own_ops():
        elementwise("own_plain_tanh", lambda m, x: m.tanh(x))
        what = request("own_plain_tanh", [f32("n", 100)])
        x = np.concatenate([np.linspace(-12, 12, 40_000), np.geomspace(1e-40, 1, 9_996), [np.inf, -np.inf, 0.0, -0.0]]).astype(np.float32)
        got = run(what, [x.reshape(500, 100)], (500, 100), cpu).reshape(-1)
    exact = np.tanh(x.astype(np.float64))
    units = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - exact) / units).max() < 2
    assert got[-4:].tolist() == [1, -1, 0, 0]


def test_what_has_no_rows_has_no_kernel() -> None:
    what = request("silu", [f32(4, "n", "t")])
    with pytest.raises(GraphError, match=r"silu of f32\[4, n, t\]: kernels of elementwise ops compute f32 of \[n, C\] or \[n, k, C\]"):
        find_kernel("silu")(what, RUNNABLE[-1])

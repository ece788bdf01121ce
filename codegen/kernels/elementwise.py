"""The arithmetic of formulas in kernels: the same expressions in f32 on every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Arithmetic, Expr, Values, f32, is_nan
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.elementwise import SOFT_CAP
from aprgraph.graph.ops.formula import Elementwise
from aprgraph.graph.ops.gelu_half import BOUND as GELU_BOUND
from aprgraph.graph.ops.gelu_half import COEFFICIENT as GELU_COEFFICIENT
from aprgraph.graph.ops.gelu_half import FACTOR as GELU_FACTOR

#: Of Cephes' erff and erfcf: coefficients after the first, from the highest power down.
_ERF = (
    -8.010193625184903e-4, 5.188327685732524e-3, -2.685381193529856e-2, 1.128358514861418e-1, -3.761262582423300e-1,
    1.128379165726710,
)  # fmt: skip
_ERFC_TO_2 = (
    -1.387039388740657e-1, 3.687424674597105e-1, -5.824733027278666e-1, 6.210004621745983e-1, -4.944515323274145e-1,
    3.404879937665872e-1, -2.741127028184656e-1, 5.638259427386472e-1,
)  # fmt: skip
_ERFC_BEYOND = (
    1.297719955372516e1, -7.495518717768503, 2.921019019210786, -1.015265279202700, 4.218463358204948e-1,
    -2.820767439740514e-1, 5.641895067754075e-1,
)  # fmt: skip


class KernelArithmetic:
    """graph.ops.arithmetic.Arithmetic on TVM expressions, over what the target's emitter has.

    What a formula reads several times is in ``values``, whose ``whole`` gives the formula.
    """

    def __init__(self, emitter: Arithmetic) -> None:
        self._emitter = emitter
        self.values = Values()

    def exp(self, x: Expr | float) -> Expr:
        """Within 2 ulp."""
        return self.values.named(self._emitter.exp(_element(x)))

    def tanh(self, x: Expr | float) -> Expr:
        """Within 2 ulp: Cephes' tanhf, a polynomial of x up to 0.625 and 1 - 2 / (e^2x + 1) beyond."""
        x = self.values.named(_element(x))
        size = self.values.named(T.Select(x < f32(0.0), -x, x))
        square = self.values.named(x * x)
        p = f32(-5.70498872745e-3)
        for coefficient in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
            p = self._emitter.fma(p, square, f32(coefficient))
        near = self._emitter.fma(p * square, x, x)
        far = self.values.named(f32(1.0) - f32(2.0) / (self.exp(size * f32(2.0)) + f32(1.0)))
        return T.Select(size < f32(0.625), near, T.Select(x < f32(0.0), -far, far))

    def sqrt(self, x: Expr | float) -> Expr:
        """Correctly rounded."""
        return T.sqrt(_element(x))

    def softplus(self, x: Expr | float) -> Expr:
        """max(x, 0) + log(1 + e^-|x|) within 2 ulp: the logarithm by the polynomial of Cephes' logf.

        Of u = e^-|x|, 1 + u is (1 + f), or 2 (1 + f) from √2 on, so that f is known without a rounding of 1 + u.
        """
        x = self.values.named(_element(x))
        u = self.exp(T.Select(x < f32(0.0), x, -x))
        is_large = u > f32(0.41421356)
        f = self.values.named(T.Select(is_large, (u - f32(1.0)) * f32(0.5), u))
        whole = self.values.named(T.Select(is_large, f32(1.0), f32(0.0)))
        square = self.values.named(f * f)
        p = f32(7.0376836292e-2)
        for coefficient in (
            -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
            -2.4999993993e-1, 3.3333331174e-1,
        ):  # fmt: skip
            p = self._emitter.fma(p, f, f32(coefficient))
        p = self._emitter.fma(whole, f32(-2.12194440e-4), p * f * square)
        logarithm = self._emitter.fma(square, f32(-0.5), p) + f
        return self.maximum(x, 0.0) + self._emitter.fma(whole, f32(0.693359375), logarithm)

    def erfc(self, x: Expr | float) -> Expr:
        """Within 1e-6 of itself for x up to 3.5: Cephes' erff below 1, and e^-x² by two polynomials of 1/x² beyond."""
        x = self.values.named(_element(x))
        size = self.values.named(T.Select(x < f32(0.0), -x, x))
        square = self.values.named(x * x)
        near = f32(7.853861353153693e-5)
        for coefficient in _ERF:
            near = self._emitter.fma(near, square, f32(coefficient))
        # Where it is not taken the quotient is of 1, so that it is finite.
        q = self.values.named(f32(1.0) / T.Select(size < f32(1.0), f32(1.0), size))
        y = self.values.named(q * q)
        middle, far = f32(2.326819970068386e-2), f32(-1.047766399936249e1)
        for coefficient in _ERFC_TO_2:
            middle = self._emitter.fma(middle, y, f32(coefficient))
        for coefficient in _ERFC_BEYOND:
            far = self._emitter.fma(far, y, f32(coefficient))
        tail = self.values.named(self.exp(-square) * q * T.Select(size < f32(2.0), middle, far))
        beyond = T.Select(x < f32(0.0), f32(2.0) - tail, tail)
        return T.Select(size < f32(1.0), f32(1.0) - x * near, beyond)

    def minimum(self, a: Expr | float, b: Expr | float) -> Expr:
        """Not T.min, which loses a NaN: a comparison with NaN is false."""
        a, b = _element(a), _element(b)
        return T.Select(T.Or(a < b, is_nan(a)), a, b)

    def maximum(self, a: Expr | float, b: Expr | float) -> Expr:
        """See ``minimum``."""
        a, b = _element(a), _element(b)
        return T.Select(T.Or(a > b, is_nan(a)), a, b)

    def where(self, condition: Expr, a: Expr | float, b: Expr | float) -> Expr:
        """As a select, which vectorises."""
        return T.Select(condition, _element(a), _element(b))

    def fma(self, a: Expr | float, b: Expr | float, c: Expr | float) -> Expr:
        """Rounded once where the target can."""
        return self._emitter.fma(_element(a), _element(b), _element(c))


def _element(value: Expr | float) -> Expr:
    """An operand's element as it is, a number as an f32 constant."""
    return f32(float(value)) if isinstance(value, (int, float)) else value


def element(request: KernelRequest, emitter: Arithmetic, operands: Sequence[Expr], numbers: Mapping[str, Expr]) -> Expr:
    """One element of the result of a request, of those of its operands and of its ``numbers`` by name."""
    op = OPS[request.op]
    assert isinstance(op, Elementwise)
    m = KernelArithmetic(emitter)
    return m.values.whole(op.value(m, [m.values.named(operand) for operand in operands], {**request.attrs, **numbers}))


def soft_capped(emitter: Arithmetic, x: Expr, cap: Expr) -> Expr:
    """An element as the op soft_cap has it."""
    m = KernelArithmetic(emitter)
    return m.values.whole(SOFT_CAP.value(m, [x], {"cap": cap}))


def inner_dims(request: KernelRequest) -> list[int]:
    """The dims of the result behind the positions, [C] or [k, C]. Raises GraphError for what no kernel computes."""
    positions, *inner = request.result.dims
    if positions != "n" or len(inner) not in (1, 2) or not all(isinstance(dim, int) for dim in inner):
        raise GraphError(f"{request.op} of {request.result}: kernels of elementwise ops compute f32 of [n, C] or [n, k, C]")
    return [int(dim) for dim in inner]


def gelu_half(emitter: Arithmetic, x: Expr) -> Expr:
    """An element as the op gelu_half has it: rounded after every operation, as its table was computed."""
    values = Values()
    x = values.named(x)
    entry = values.named(emitter.half(x))
    product = T.Cast("float64", emitter.rounded(f32(float(GELU_COEFFICIENT)) * entry)) * T.Cast("float64", entry)
    inner = f32(float(GELU_FACTOR)) * entry * T.Cast("float32", product + T.float64(1.0))  # fused: rounded once
    # Where the nearest tanh is not what the C library gives, the float16 is the same.
    tanh = T.Cast("float32", T.tanh(T.Cast("float64", inner)))
    found = emitter.half(values.named(f32(0.5) * entry * (f32(1.0) + tanh)))
    return values.whole(T.Select(x <= f32(-GELU_BOUND), f32(0.0), T.Select(x >= f32(GELU_BOUND), x, found)))

"""Kernels that round activations as an engine does before a matrix product: a warp for each block, a thread for each element alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, launch_over, put, registers, shuffle_xor, split_index, zero
from aprgraph.codegen.kernels.roundings import BLOCK_SCHEMES, ELEMENT_SCHEMES, BlockScheme, Quantised, magnitude_bits, sum_error
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, i64
from aprgraph.graph.roundings import ROUNDINGS

#: Emits what becomes of a block: the emitter, the block, the row of the result, the number of the block in it.
Body = Callable[[Emitter, "_WarpBlock", Buffer, tuple[Expr, ...], Expr], None]


def round_values(request: KernelRequest) -> Any:
    """x [n, C], [n, k, C] or [H, n, t] -> out of the same shape, rounded element by element or block by block."""
    name = str(request.attrs["scheme"])
    if name in ELEMENT_SCHEMES:
        return _round_elements(request)
    scheme = BLOCK_SCHEMES[name]

    def body(emitter: Emitter, own: _WarpBlock, out: Buffer, row: tuple[Expr, ...], number: Expr) -> None:
        found = own.quantise(scheme, emitter)
        for step in range(own.steps):
            value = found.kept * found.quantise(get(own.values, step))
            assign(out, value, [*row, number * own.elements + own.place(step)])

    return _by_blocks(request, body)


def round_sum_errors(request: KernelRequest) -> Any:
    """x [n, C] or [n, k, C] -> out [n, blocks] or [n, k, blocks]: what the kept sum of each block is off."""
    scheme = BLOCK_SCHEMES[str(request.attrs["scheme"])]

    def body(emitter: Emitter, own: _WarpBlock, out: Buffer, row: tuple[Expr, ...], number: Expr) -> None:
        found = own.quantise(scheme, emitter)
        quants, values = registers(1), registers(1)
        for total, element in ((quants, found.quantise), (values, lambda x: x)):
            zero(total, 1)
            for step in range(own.steps):
                put(total, get(total) + element(get(own.values, step)))
            emitter.warp_sum(total)  # of x as the engine's warps have it, a lane an element
        with T.If(own.lane == 0), T.Then():
            assign(out, sum_error(emitter, scheme, found, get(quants), get(values)), [*row, number])

    return _by_blocks(request, body)


def _round_elements(request: KernelRequest) -> Any:
    scheme, dims = ELEMENT_SCHEMES[str(request.attrs["scheme"])], request.operands[0].dims

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", dims, "float32")
        out = parameters.buffer("out", dims, "float32")
        with launch_over(math.prod((parameters.size(dim) for dim in dims), start=i64(1))) as index:
            T.buffer_store(out.elements, scheme(emitter, x.elements[index]), [index])

    return build_function(request.symbol, emit)


def _by_blocks(request: KernelRequest, body: Body) -> Any:
    """``body`` for each block of each row of x."""
    elements = ROUNDINGS[str(request.attrs["scheme"])].elements
    positions, *inner, width = request.operands[0].dims
    assert positions == "n"
    sizes = [int(dim) for dim in inner]
    blocks = int(width) // elements

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", request.operands[0].dims, "float32")
        out = parameters.buffer("out", request.result.dims, "float32")
        with launch(parameters.size("n") * (math.prod(sizes) * blocks), WARP) as (index, lane):
            *row, number = split_index(index, *sizes, blocks)
            body(Emitter(), _WarpBlock(x, tuple(row), number * elements, elements, lane), out, tuple(row), number)

    return build_function(request.symbol, emit)


class _WarpBlock:
    """A block of ``elements`` activations in the registers of a warp: a lane has one in each step of 32."""

    def __init__(self, x: Buffer, row: tuple[Expr, ...], first: Expr, elements: int, lane: Expr) -> None:
        self.elements, self.steps, self.lane = elements, elements // WARP, lane
        self._x, self._row, self._first = x, row, first
        self.values = registers(self.steps)
        for step in range(self.steps):
            put(self.values, x[(*row, first + self.place(step))], step)

    def place(self, step: int) -> Expr:
        """Where the lane's element of a step stands in the block."""
        return self.lane + step * WARP

    def quantise(self, scheme: BlockScheme, emitter: Emitter) -> Quantised:
        """What the block becomes; all lanes have it."""
        bits, place = registers(1, "int32"), registers(1, "int32")
        put(bits, tirx.IntImm("int32", -1))
        put(place, tirx.IntImm("int32", 0))
        for step in range(self.steps):
            size = magnitude_bits(get(self.values, step))
            with T.If(size > get(bits)), T.Then():
                put(bits, size)
                put(place, T.Cast("int32", self.place(step)))
        other_bits, other_place = registers(1, "int32"), registers(1, "int32")
        for distance in (16, 8, 4, 2, 1):
            put(other_bits, shuffle_xor(get(bits), distance, "int32"))
            put(other_place, shuffle_xor(get(place), distance, "int32"))
            is_before = T.And(tirx.EQ(get(other_bits), get(bits)), get(other_place) < get(place))
            with T.If(T.Or(get(other_bits) > get(bits), is_before)), T.Then():
                put(bits, get(other_bits))
                put(place, get(other_place))
        peak = self._x[(*self._row, self._first + T.Cast("int64", get(place)))] if scheme.signed else T.reinterpret("float32", get(bits))
        return scheme.prepare(emitter, _hold, _hold(peak))


def _hold(value: Expr) -> Expr:
    kept = registers(1)
    put(kept, value)
    return get(kept)

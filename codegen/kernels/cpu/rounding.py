"""Kernels that round activations as an engine does before a matrix product."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.roundings import BLOCK_SCHEMES, ELEMENT_SCHEMES, BlockScheme, Quantised, magnitude_bits, sum_error
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, each_row, f32, i64, only, registers
from aprgraph.graph.roundings import ROUNDINGS

#: The elements of a block from one on, by lane.
Elements = Callable[[Expr], Expr]


def round_values(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], [n, k, C] or [H, n, t] -> out of the same shape, rounded element by element or block by block."""
    name = str(request.attrs["scheme"])
    if name in ELEMENT_SCHEMES:
        return _round_elements(request, cpu)
    elements, scheme = ROUNDINGS[name].elements, BLOCK_SCHEMES[name]

    def body(emitter: Emitter, x: Buffer, out: Buffer, row: tuple[Expr, ...], index: Expr) -> None:
        first = index * elements
        found = BlockOfRow(emitter, elements, lambda column: x[(*row, first + column)]).quantise(scheme)

        def store(column: Expr, width: int) -> None:
            emitter.vector(
                width,
                lambda lane: assign(out, found.kept * found.quantise(x[(*row, first + column + lane)]), [*row, first + column + lane]),
            )

        emitter.chunks(elements, store)

    return _by_blocks(request, cpu, elements, body)


def round_sum_errors(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] or [n, k, C] -> out [n, blocks] or [n, k, blocks]: what the kept sum of each block is off."""
    name = str(request.attrs["scheme"])
    elements, scheme = ROUNDINGS[name].elements, BLOCK_SCHEMES[name]

    def body(emitter: Emitter, x: Buffer, out: Buffer, row: tuple[Expr, ...], index: Expr) -> None:
        first = index * elements
        each = BlockOfRow(emitter, elements, lambda column: x[(*row, first + column)])
        found = each.quantise(scheme)
        values = each.sum_by_halves() if scheme.sums_values else f32(0.0)
        assign(out, sum_error(emitter, scheme, found, each.sum_of_quants(found), values), [*row, index])

    return _by_blocks(request, cpu, elements, body)


def _round_elements(request: KernelRequest, cpu: Cpu) -> Any:
    scheme = ELEMENT_SCHEMES[str(request.attrs["scheme"])]
    *outer, width = request.operands[0].dims

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", (*outer, width), "float32")
        out = parameters.buffer("out", (*outer, width), "float32")
        sizes = [parameters.size(dim) for dim in (*outer, width)]
        rows, columns = math.prod(sizes[:-1], start=i64(1)), sizes[-1]
        with T.parallel(i64(0), rows) as row:
            first = row * columns

            def put(at: Expr) -> None:
                T.buffer_store(out.elements, scheme(emitter, x.elements[first + at]), [first + at])

            whole = T.floordiv(columns, i64(emitter.lanes))
            with T.serial(i64(0), whole) as step:
                emitter.vector(emitter.lanes, lambda lane: put(step * emitter.lanes + lane))
            with T.serial(i64(0), columns - whole * emitter.lanes) as rest:
                put(whole * emitter.lanes + rest)

    return build_function(request.symbol, emit)


def _by_blocks(
    request: KernelRequest, cpu: Cpu, elements: int, body: Callable[[Emitter, Buffer, Buffer, tuple[Expr, ...], Expr], None]
) -> Any:
    """``body(emitter, x, out, row, index)`` for each block of each row of x."""
    positions, *inner, width = request.operands[0].dims
    assert positions == "n"
    each = math.prod(int(dim) for dim in inner)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", request.operands[0].dims, "float32")
        out = parameters.buffer("out", request.result.dims, "float32")

        def round_row(index: Expr) -> None:
            row = (T.floordiv(index, i64(each)), T.floormod(index, i64(each))) if inner else (index,)
            with T.serial(i64(0), i64(int(width) // elements)) as number:
                body(emitter, x, out, row, number)

        each_row(parameters.size("n") * each, int(width), round_row)

    return build_function(request.symbol, emit)


class BlockOfRow:
    """One block of a row of activations: ``at(column)`` is an element of it, of as many lanes as ``column`` has."""

    def __init__(self, emitter: Emitter, elements: int, at: Elements) -> None:
        self._emitter, self._elements, self._at = emitter, elements, at

    def quantise(self, scheme: BlockScheme) -> Quantised:
        """What the block becomes."""
        return scheme.prepare(self._emitter, _hold, self._peak(signed=scheme.signed))

    def _peak(self, *, signed: bool) -> Expr:
        emitter, lanes = self._emitter, self._emitter.lanes
        largest = registers(lanes, "int32")
        emitter.vector(lanes, lambda lane: assign(largest, tirx.IntImm("int32", 0), [lane]))

        def step(column: Expr, width: int) -> None:
            emitter.vector(width, lambda lane: assign(largest, T.max(largest[lane], magnitude_bits(self._at(column + lane))), [lane]))

        emitter.chunks(self._elements, step)
        for lane in range(1, lanes):
            assign(largest, T.max(only(largest), largest[i64(lane)]), [i64(0)])
        if not signed:
            return _hold(T.reinterpret("float32", only(largest)))
        # From the last element back, so that the first one stays.
        peak = registers(1)
        with T.serial(i64(0), i64(self._elements)) as step_back:
            x = self._at(i64(self._elements - 1) - step_back)
            with T.If(tirx.EQ(magnitude_bits(x), only(largest))), T.Then():
                assign(peak, x, [i64(0)])
        return only(peak)

    def sum_of_quants(self, found: Quantised) -> Expr:
        """Σq, exact in whatever order."""
        emitter = self._emitter
        sums = registers(emitter.lanes)
        emitter.zero(sums, 0, emitter.lanes)

        def step(column: Expr, width: int) -> None:
            emitter.vector(width, lambda lane: assign(sums, sums[lane] + found.quantise(self._at(column + lane)), [lane]))

        emitter.chunks(self._elements, step)
        return emitter.sum_lanes(sums, 0)

    def sum_by_halves(self) -> Expr:
        """Σx as the lanes of a warp add up."""
        sums, width = registers(self._elements), self._elements
        self._emitter.vector(width, lambda lane: assign(sums, self._at(lane), [lane]))
        while width > 1:
            width //= 2
            self._emitter.fold(sums, 0, width)
        return only(sums)


def _hold(value: Expr) -> Expr:
    kept = registers(1)
    assign(kept, value, [i64(0)])
    return only(kept)

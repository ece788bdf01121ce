"""Kernels of heads: their parts side by side, and each with a matrix of its own."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.linear import Tiles
from aprgraph.codegen.kernels.cpu.lookup import copy_columns
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.tir import Expr, Parameters, along, assign, build_function, i64
from aprgraph.graph.ops.heads import is_shared


def join_heads(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, H·A], y [n, H·B], or [n, B] if it is shared -> out [n, H·(A + B)]."""
    heads, shared = request.attr_int("heads"), is_shared(request.attrs)
    widths = [int(operand.dims[1]) for operand in request.operands]
    a, b = widths[0] // heads, widths[1] // (1 if shared else heads)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x, y = (parameters.buffer(name, ("n", width), "float32") for name, width in zip("xy", widths, strict=True))
        out = parameters.buffer("out", ("n", heads * (a + b)), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(heads)) as head:
            copy_columns(emitter, a, (x, p, head * a), (out, p, head * (a + b)))
            copy_columns(emitter, b, (y, p, i64(0) if shared else head * b), (out, p, head * (a + b) + a))

    return build_function(request.symbol, emit)


def head_linear(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, H·C], or [n, C] if it is shared, W [H, R, C] -> out [n, H·R]; sums are those of the linear kernel."""
    x_type, weight_type = request.operands
    heads, columns = int(weight_type.dims[0]), 0 if is_shared(request.attrs) else int(weight_type.dims[2])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", int(x_type.dims[1])), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type, halves)
        out = parameters.buffer("out", ("n", heads * weight.rows), "float32")
        tiles = Tiles(emitter, weight)
        with T.parallel(i64(0), i64(heads * tiles.count)) as index:
            head, tile = T.floordiv(index, i64(tiles.count)), T.floormod(index, i64(tiles.count))

            def element(i: Expr, column: Expr) -> Any:
                return along(x, i, head * columns + column)

            def store(i: Expr, row: Expr, value: Expr) -> None:
                assign(out, value, [i, head * weight.rows + row])

            tiles.products(tile, n, element, store, head)

    return build_function(request.symbol, emit)

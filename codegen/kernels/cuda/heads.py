"""CUDA kernels of heads: their parts side by side, and each with a matrix of its own."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, ceil_div, launch, launch_over, split_index
from aprgraph.codegen.kernels.cuda.linear import FEW, TILE_POSITIONS, TILE_THREADS, Product
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64
from aprgraph.graph.ops.heads import is_shared


def join_heads(request: KernelRequest) -> Any:
    """x [n, H·A], y [n, H·B], or [n, B] if it is shared -> out [n, H·(A + B)]."""
    heads, shared = request.attr_int("heads"), is_shared(request.attrs)
    widths = [int(operand.dims[1]) for operand in request.operands]
    a, b = widths[0] // heads, widths[1] // (1 if shared else heads)

    def emit(parameters: Parameters) -> None:
        x, y = (parameters.buffer(name, ("n", width), "float32") for name, width in zip("xy", widths, strict=True))
        out = parameters.buffer("out", ("n", heads * (a + b)), "float32")
        with launch_over(parameters.size("n") * (heads * (a + b))) as index:
            p, head, column = split_index(index, heads, a + b)
            to = [p, head * (a + b) + column]
            with T.If(column < a):
                with T.Then():
                    assign(out, x[p, head * a + column], to)
                with T.Else():
                    assign(out, y[p, (column if shared else head * b + column) - a], to)

    return build_function(request.symbol, emit)


def head_linear(request: KernelRequest) -> Any:
    """x [n, H·C], or [n, C] if it is shared, W [H, R, C] -> out [n, H·R]; sums are those of the linear kernel."""
    x_type, weight_type = request.operands
    heads, columns = int(weight_type.dims[0]), 0 if is_shared(request.attrs) else int(weight_type.dims[2])

    def emit(parameters: Parameters) -> None:
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", int(x_type.dims[1])), "float32")
        weight = Weight(Emitter(), parameters, "weight", weight_type)
        out = parameters.buffer("out", ("n", heads * weight.rows), "float32")
        weight.open()
        product = Product(Emitter(), weight)

        def of_head(head: Expr) -> tuple[Any, Any]:
            def element(index: Expr, column: Expr) -> Expr:
                return x[index, head * columns + column]

            def store(index: Expr, row: Expr, value: Expr) -> None:
                assign(out, value, [index, head * weight.rows + row])

            return element, store

        with T.If(n <= FEW):
            with T.Then(), launch(i64(heads * product.few_blocks), WARP) as (index, thread):
                head, block = T.floordiv(index, i64(product.few_blocks)), T.floormod(index, i64(product.few_blocks))
                product.few(block, thread, n, *of_head(head), head)
            with T.Else(), launch(ceil_div(n, TILE_POSITIONS) * (heads * product.row_tiles), TILE_THREADS) as (index, thread):
                group, head, tile = split_index(index, heads, product.row_tiles)
                product.many(tile, thread, group * TILE_POSITIONS, n, *of_head(head), head)

    return build_function(request.symbol, emit)

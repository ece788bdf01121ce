"""Which row of a table a token id takes: the same on every target."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Expr, i64
from aprgraph.graph.ops.lookup import first_for_others


def row_of(request: KernelRequest, token: Expr) -> Expr:
    """The row of the table of an ``embed``, as int64. Token ids are checked before the run."""
    row = T.Cast("int64", token)
    if not first_for_others(request.attrs):
        return row
    return T.Select(row < i64(int(request.operands[1].dims[0])), row, i64(0))

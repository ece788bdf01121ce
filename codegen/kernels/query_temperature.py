"""The temperature of queries: the same expression on every target."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Expr, i64


def temperature_at(numbers: Mapping[str, Expr], position: Expr) -> Expr:
    """What the query at ``position`` (int32) is multiplied by, in f32, computed in float64.

    ``numbers`` holds the attributes of the op: the strength in float64, the span in int64, and the offset unless
    that is 0.
    """
    at = T.Cast("int64", position)
    steps = T.floordiv(at + numbers["offset"] if "offset" in numbers else at, numbers["span"])
    grown = numbers["strength"] * T.log(T.Cast("float64", steps + i64(1)))
    return T.Cast("float32", grown + T.float64(1.0))

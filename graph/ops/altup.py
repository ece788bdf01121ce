"""AltUp: a hidden state of several streams, side by side, of which each layer works on one (Baykal et al. 2023, arXiv:2301.13310)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _equal_parts(operand: TensorType, count: int, what: str) -> int:
    """How many columns each of ``count`` streams has."""
    _, columns = activation(2, operand, what)
    size = width(columns, f"columns of {what}")
    require(count >= 1 and size % count == 0, f"{what} is {operand}, which has no {count} equal streams")
    return size // count


def _rows_as(operand: TensorType, first: TensorType, columns: int, what: str) -> None:
    """Raise GraphError unless an operand has the rows of ``first`` and so many columns."""
    expected = TensorType("f32", (first.dims[0], columns))
    require(operand == expected, f"{what} is {operand}, but the first operand is {first}: expected {expected}")


def _apart(x: Array, streams: int) -> Array:
    """The streams of each row: [n, A, E]."""
    return x.reshape(len(x), streams, -1)


def streams_of(coefs: TensorType) -> int:
    """The number of streams of which ``coefs`` has a number for each two. Raises GraphError where there is none."""
    columns = width(activation(2, coefs, "coefs")[1], "columns of coefs")
    streams = math.isqrt(columns)
    require(streams * streams == columns, f"coefs are {coefs}, expected a number for each two streams: a square of columns")
    return streams


def _predict(types: Types, _attrs: Attrs) -> TensorType:
    x, coefs = types
    streams = streams_of(coefs)
    _equal_parts(x, streams, "x")
    _rows_as(coefs, x, streams * streams, "coefs")
    return x


def _predict_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, coefs = operands
    streams = math.isqrt(coefs.shape[1])
    apart = _apart(x, streams)
    return np.asarray(apart + np.einsum("nij,nje->nie", _apart(coefs, streams), apart)).reshape(x.shape)


ALTUP_PREDICT = Op(
    "altup_predict",
    "Each stream plus a sum of all streams by numbers of the position, from_j to_i at i · A + j: x [n, A·E], coefs [n, A·A] -> [n, A·E] "
    "(AltUp, arXiv:2301.13310).",
    ("x", "coefs"),
    infer=_predict,
    reference=_predict_reference,
    traits=Traits(sums=True, is_rowwise=True),
)


def _correct(types: Types, attrs: Attrs) -> TensorType:
    x, activated, coefs = types
    streams, active = width(activation(2, coefs, "coefs")[1], "columns of coefs"), integer(attrs, "active")
    _rows_as(activated, x, _equal_parts(x, streams, "x"), "activated")
    _rows_as(coefs, x, streams, "coefs")
    require(0 <= active < streams, f"active is {active}, expected one of {streams} streams")
    return x


def _correct_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, activated, coefs = operands
    apart = _apart(x, coefs.shape[1])
    innovation = activated - apart[:, integer(attrs, "active")]
    return np.asarray(apart + innovation[:, None] * (coefs[:, :, None] + 1.0)).reshape(x.shape)


ALTUP_CORRECT = Op(
    "altup_correct",
    "Each stream plus (1 + its number) times what a layer has changed of the stream `active`: x [n, A·E], what the layer made of that "
    "stream [n, E], coefs [n, A] -> [n, A·E] (AltUp, arXiv:2301.13310).",
    ("x", "activated", "coefs"),
    infer=_correct,
    reference=_correct_reference,
    attrs={"active": int},
    traits=Traits(is_rowwise=True),
)


def _stream_add(types: Types, attrs: Attrs) -> TensorType:
    x, y = types
    streams, start = integer(attrs, "streams"), integer(attrs, "start")
    _rows_as(y, x, _equal_parts(x, streams, "x"), "y")
    require(0 <= start < streams, f"start is {start}, expected one of {streams} streams")
    return x


def _stream_add_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, y = operands
    sums = _apart(x, integer(attrs, "streams")).copy()
    sums[:, integer(attrs, "start") :] += y[:, None]
    return sums.reshape(x.shape)


STREAM_ADD = Op(
    "stream_add",
    "y added to each stream from the stream `start` on: x [n, A·E], y [n, E] -> [n, A·E].",
    ("x", "y"),
    infer=_stream_add,
    reference=_stream_add_reference,
    attrs={"streams": int, "start": int},
    traits=Traits(is_rowwise=True),
)


def _stream_mean(types: Types, attrs: Attrs) -> TensorType:
    return TensorType("f32", (types[0].dims[0], _equal_parts(types[0], integer(attrs, "streams"), "x")))


STREAM_MEAN = Op(
    "stream_mean",
    "The mean of all streams: x [n, A·E] -> [n, E].",
    ("x",),
    infer=_stream_mean,
    reference=lambda operands, attrs: _apart(operands[0], integer(attrs, "streams")).mean(axis=1),
    attrs={"streams": int},
    traits=Traits(sums=True, is_rowwise=True),
)


def _match_rms(types: Types, _attrs: Attrs) -> TensorType:
    x, like = types
    size = width(activation(2, like, "like")[1], "columns of like")
    _rows_as(like, x, size, "like")
    require(size >= 1 and width(x.dims[1], "columns of x") % size == 0, f"x is {x}, expected streams of {size} columns, as like has")
    return x


def _match_rms_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, like = operands
    apart = x.reshape(len(x), -1, like.shape[1])
    own = np.sqrt(np.maximum(np.square(apart).mean(-1, keepdims=True), number(attrs, "least")))
    wanted = np.sqrt(np.square(like).mean(-1, keepdims=True))
    return np.asarray(apart * wanted[:, None] / own).reshape(x.shape)


MATCH_RMS = Op(
    "match_rms",
    "Each stream of x times a number that gives it the root mean square of `like`; its own mean square counts as `least` where it is "
    "less: x [n, A·E], like [n, E] -> [n, A·E].",
    ("x", "like"),
    infer=_match_rms,
    reference=_match_rms_reference,
    attrs={"least": float},
    numbers={"least": None},
    traits=Traits(is_rowwise=True),
)

"""Mistakes of a hidden state of several streams, and of gates that are cut off above a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import OPS, Array
from aprgraph.runtime.explain.alternative import Alternative, explains, with_attrs, with_operand
from aprgraph.runtime.explain.site import Site


@explains("altup_predict")
def other_prediction(site: Site) -> Iterator[Alternative]:
    """The coefficients are transposed."""
    words = f"{site.called} takes what goes from one stream to another the other way round"
    yield Alternative("stream-coefs", words, with_operand(site, 1, _transposed))


@explains("altup_correct")
def other_correction(site: Site) -> Iterator[Alternative]:
    """The difference is that to another stream, or coefficients are without the 1 that is added."""
    own, streams = site.node.attr_int("active"), site.operands[2].shape[1]
    for other in range(streams):
        if other != own:
            words = f"{site.called} takes the difference to the stream {other} in place of {own}"
            yield Alternative("other-stream", words, with_attrs(site, active=other))
    words = f"{site.called} multiplies by its coefficients, and not by 1 more"
    yield Alternative("stream-coefs", words, with_operand(site, 2, lambda coefs: coefs - 1))


@explains("stream_add")
def other_streams(site: Site) -> Iterator[Alternative]:
    """It is added to more streams, to fewer, or to none."""
    own, streams = site.node.attr_int("start"), site.node.attr_int("streams")
    for start in range(streams):
        if start != own:
            words = f"{site.called} adds {site.label(1)} to the streams from {start} on in place of {own}"
            yield Alternative("other-stream", words, with_attrs(site, start=start))


@explains("stream_mean")
def other_mean(site: Site) -> Iterator[Alternative]:
    """The sum of the streams in place of their mean, or one of them alone."""
    streams = site.node.attr_int("streams")
    size = site.due.shape[1]
    yield Alternative("streams-sum", f"{site.called} is the sum of the streams", partial(_sum, site))
    for one in range(streams):
        yield Alternative("one-stream", f"{site.called} is the stream {one} alone", partial(_stream, one, size))


@explains("match_rms")
def other_magnitude(site: Site) -> Iterator[Alternative]:
    """Streams are normalised, and do not get the magnitude of the other one."""
    words = f"{site.called} is normalised, without the magnitude of {site.label(1)}"
    yield Alternative("magnitude", words, with_operand(site, 1, np.ones_like))


@explains("gaussian_top_k")
def other_bound(site: Site) -> Iterator[Alternative]:
    """The variance is that of a sample, or of the whole row; the bound is the mean, or has another number of deviations."""
    is_sample = bool(site.node.attrs.get("sample", False))
    words = "is the mean of the squares" if is_sample else "is divided by one less than the number of elements, as in llama.cpp"
    yield Alternative("deviation", f"the variance of {site.called} {words}", with_attrs(site, sample=not is_sample))
    yield Alternative("deviation", f"the bound of {site.called} is the mean alone", with_attrs(site, factor=0.0))
    for factor in _bounds(site):
        words = f"the bound of {site.called} is {factor:.6g} deviations above the mean, as in another layer"
        yield Alternative("deviation", words, with_attrs(site, factor=factor))
    yield Alternative("bound-kept", f"{site.called} keeps what lies above the bound as it is", lambda operands: _kept(site, operands[0]))


@explains("silu", "gelu", "relu_squared")
def cut_off(site: Site) -> Iterator[Alternative]:
    """The gate is cut off, as in other layers."""
    for factor in _bounds(site):
        words = f"{site.called} is of {site.label(0)} above a bound, which other layers have"
        yield Alternative("cut-off", words, with_operand(site, 0, partial(_above, factor)))


def _bounds(site: Site) -> list[float]:
    """The bounds of other layers, in deviations."""
    others = [node.attr_float("factor") for node in site.around.graph.with_op("gaussian_top_k")]
    return [factor for factor in dict.fromkeys(others) if factor != site.node.attrs.get("factor")]


def _sum(site: Site, operands: Sequence[Array]) -> Array:
    return site.compute(operands) * site.node.attr_int("streams")


def _stream(one: int, size: int, operands: Sequence[Array]) -> Array:
    return operands[0][:, one * size : (one + 1) * size]


def _above(factor: float, x: Array) -> Array:
    reference = OPS["gaussian_top_k"].reference
    assert reference is not None
    return reference([x], {"factor": factor})


def _kept(site: Site, x: Array) -> Array:
    return np.where(site.due > 0, x, 0.0)


def _transposed(coefs: Array) -> Array:
    size = math.isqrt(coefs.shape[1])
    return coefs.reshape(len(coefs), size, size).swapaxes(1, 2).reshape(coefs.shape)

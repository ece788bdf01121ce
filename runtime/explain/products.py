"""Mistakes of matrix products: another weight, its rows in another order, its layout, its blocks, a part of the sum left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, explains
from aprgraph.runtime.explain.block_weights import misreadings
from aprgraph.runtime.explain.one_weight import BLOCK, Change, Product, factors_of, jointly, products_of
from aprgraph.runtime.explain.orders import IN_ANOTHER_ORDER, found_order, order_words
from aprgraph.runtime.explain.site import Site, is_left

#: A weight of more elements is not multiplied whole for each of many alternatives.
_LARGE = 1 << 26
_NAMED = 4
#: Over how many devices the columns of a weight are divided.
_PAIR = 2
_SHARDS = (_PAIR, 4, 8, 16)
#: Attributes that say how many heads something has.
_HEADS = ("heads", "kv_heads")


@explains("linear", "expert_linear", "head_linear")
def other_weight(site: Site) -> Iterator[Alternative]:
    """It multiplies by another tensor of the same size: of another layer, or of another place."""

    def find(product: Product) -> Iterator[Change]:
        for other in site.weights_like(product.weight.name):
            value = site.read(other)
            if product.fits(value):
                words = f"{site.label_of(other)} is multiplied by in place of {site.label_of(product.weight)}"
                yield words, partial(_given, value)
                return

    yield from jointly("other-weight", products_of(site), find)


@explains("linear", "expert_linear", "head_linear")
def other_layout(site: Site) -> Iterator[Alternative]:
    """A matrix [out, in] is read as [in, out], or transposed."""

    def find(product: Product) -> Iterator[Change]:
        weight = site.operands[product.index]
        if isinstance(weight, np.ndarray) and weight.ndim > 1 and weight.size <= _LARGE:
            if product.fits(_transposed(weight)):
                yield f"{site.label_of(product.weight)} is read as [in, out]", _transposed
            elif product.fits(np.swapaxes(weight, -1, -2)):
                yield f"{site.label_of(product.weight)} is transposed", partial(np.swapaxes, axis1=-1, axis2=-2)
            elif product.fits(_laid_out_otherwise(weight)):
                yield f"{site.label_of(product.weight)} was laid out as [in, out]", _laid_out_otherwise

    yield from jointly("transposed", products_of(site), find)


@explains("linear", "expert_linear", "head_linear")
def misread_blocks(site: Site) -> Iterator[Alternative]:
    """The blocks of a weight are decoded otherwise."""
    products = list(products_of(site))
    found: dict[str, dict[int, Change]] = {}
    for product in products:
        weight = site.operands[product.index]
        if math.prod(weight.shape) > _LARGE:
            continue
        for mistake, words, change in misreadings(site.around.model, product.weight):
            if product.fits(change(np.asarray(weight))):
                found.setdefault(mistake, {})[product.index] = f"{site.label_of(product.weight)} is decoded {words}", change
    for mistake, changes in found.items():
        yield from jointly(mistake, products, partial(_known, changes))


@explains("linear", "expert_linear")
def rows_in_another_order(site: Site) -> Iterator[Alternative]:
    """The rows of a weight have changed places."""
    heads = [node.attr_int(name) for node in site.around.graph if node.layer == site.node.layer for name in _HEADS if name in node.attrs]

    def find(product: Product) -> Iterator[Change]:
        order = found_order(product.recorded, product.due)
        if order is not None:
            yield order_words(order, site.label_of(product.weight), heads), partial(_reordered, order)

    for one in jointly("rows-reordered", products_of(site), find):
        # Which order it is may be known by another rule.
        yield replace(one, rank=GENERAL) if IN_ANOTHER_ORDER in one.words else one


@explains("linear", "expert_linear")
def part_of_the_sum(site: Site) -> Iterator[Alternative]:
    """Some columns of every sum count otherwise: left out, or more than once."""

    def find(product: Product) -> Iterator[Change]:
        weight = site.operands[product.index]
        columns = product.x.shape[1]
        if len(weight.shape) < 2 or columns % BLOCK or columns // BLOCK < 2:
            return
        rows = product.probes()
        matrix = np.asarray(product.matrix(weight)[rows])
        # terms[b]: what the columns of block b add to the probed rows, [m · rows]
        parts = zip(*(np.split(side, columns // BLOCK, axis=1) for side in (product.x, matrix)), strict=True)
        terms = np.stack([(x @ w.T).reshape(-1) for x, w in parts])
        off = (product.recorded[:, rows] - product.due[:, rows]).reshape(-1)
        for factors in factors_of(terms, off):
            if is_left(off, factors @ terms, np.zeros_like(off)):
                wrong = [b for b, factor in enumerate(factors) if abs(factor) > 1e-3]
                if 2 * len(wrong) > len(factors):  # then it is the whole
                    continue
                which = listed((f"{b * BLOCK} to {(b + 1) * BLOCK - 1}" for b in wrong), _NAMED)
                what = "are left out of every sum" if all(abs(factors[b] + 1) < 1e-3 for b in wrong) else "count otherwise in every sum"
                scale = np.repeat(1.0 + factors, BLOCK)
                yield f"the columns {which} of {site.label_of(product.weight)} {what}", partial(_scaled, scale)
                return

    yield from jointly("sum-part", products_of(site), find, SOLVED)


@explains("linear", "expert_linear")
def one_shard(site: Site) -> Iterator[Alternative]:
    """Of every sum there is one of 2, 4, 8 or 16 equal parts alone, as where the sums of several devices are not added up."""

    def find(product: Product) -> Iterator[Change]:
        columns, rows = product.x.shape[1], product.probes()
        weight = site.operands[product.index]
        matrix = np.asarray(product.matrix(weight)[rows]) if len(weight.shape) > 1 else np.empty((0, 0))
        for count in (count for count in _SHARDS if matrix.size and columns % count == 0 and columns > count):
            width = columns // count
            if count == _PAIR and width % BLOCK == 0:  # columns that are left out, as ``part_of_the_sum`` says
                continue
            for start in range(0, columns, width):
                value = product.x[:, start : start + width] @ matrix[:, start : start + width].T
                if is_left(product.recorded[:, rows], value, product.due[:, rows]):
                    which = f"the columns {start} to {start + width - 1} of {site.label_of(product.weight)} alone count in every sum"
                    kept = (np.arange(columns) // width == start // width).astype(np.float64)
                    yield f"{which}, as where the sums of {count} devices are not added up", partial(_scaled, kept)
                    return

    yield from jointly("sum-shard", products_of(site), find, SOLVED)


def _known(changes: Mapping[int, Change], product: Product) -> list[Change]:
    return [changes[product.index]] if product.index in changes else []


def _given(value: Array, _own: Array) -> Array:
    return value


def _reordered(order: Array, weight: Array) -> Array:
    return np.take(np.asarray(weight), order, axis=-2)


def _scaled(scale: Array, weight: Array) -> Array:
    return np.asarray(weight) * scale


def _transposed(weight: Array) -> Array:
    *experts, rows, columns = weight.shape
    return np.asarray(weight).reshape(*experts, columns, rows).swapaxes(-1, -2)


def _laid_out_otherwise(weight: Array) -> Array:
    return np.asarray(np.swapaxes(weight, -1, -2).reshape(weight.shape))

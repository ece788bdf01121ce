"""Weights of which a few rows are not the file's: one element, one block, or which rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed, plural
from aprgraph.runtime.explain.alternative import LOOSE, SOLVED, Alternative, explains
from aprgraph.runtime.explain.one_weight import BLOCK, Change, Product, factors_of, is_no_chance, jointly, products_of
from aprgraph.runtime.explain.site import Site

_NAMED = 4


@explains("linear")
def damaged_rows(site: Site) -> Iterator[Alternative]:
    """A few rows of a weight are other than the file's: which, and of one row which block."""
    products = list(products_of(site))
    for name, find, rank in (("damaged-elements", _elements, SOLVED), ("damaged-blocks", _blocks, SOLVED), ("damaged-rows", _rows, LOOSE)):
        yield from jointly(name, products, find, rank)


def _wrong_rows(product: Product) -> Array | None:
    """The rows that are off, if they are few."""
    off = np.square(product.recorded - product.due).sum(axis=0)
    rows = np.flatnonzero(off > 1e-6 * off.max())
    few = 0 < rows.size <= max(1, product.due.shape[1] // 8)
    return rows if few and len(product.x) > 1 and len(product.weight.type.dims) == 2 else None


def _elements(product: Product) -> Iterator[Change]:
    """One element of each wrong row is another number: what is off is that column of x times a number."""
    rows = _wrong_rows(product)
    if rows is None:
        return
    energy = np.square(product.x).sum(axis=0)
    found: list[tuple[int, int, float]] = []
    for row in rows:
        off = product.recorded[:, row] - product.due[:, row]
        along = off @ product.x
        column = int(np.argmax(np.where(energy > 0, np.square(along) / np.where(energy > 0, energy, 1.0), 0.0)))
        change = float(along[column] / energy[column])
        if not is_no_chance(off, change * product.x[:, column], product.x.shape[1]):
            return
        found.append((int(row), column, change))
    row, column, change = found[0]
    own = float(np.asarray(product.site.operands[product.index][row : row + 1])[0, column])
    more = f" (and so at {len(found) - 1} more rows)" if len(found) > 1 else ""

    def changed(weight: Array) -> Array:
        value = np.array(weight)
        for row, column, change in found:
            value[row, column] += change
        return value

    name = product.site.label_of(product.weight)
    yield f"element ({row}, {column}) of {name} is {own + change:.6g} in place of {own:.6g}{more}", changed


def _blocks(product: Product) -> Iterator[Change]:
    """One block of each wrong row is the file's times a number."""
    rows = _wrong_rows(product)
    site = product.site
    fmt = site.around.model.tensor(product.weight.attr_str("tensor")).format
    size = fmt.elements if fmt.elements > 1 else BLOCK
    if rows is None or product.x.shape[1] % size:
        return
    blocks = product.x.shape[1] // size
    own = np.asarray(site.operands[product.index][rows])
    found: list[tuple[int, int, float]] = []
    for index, row in enumerate(rows):
        off = product.recorded[:, row] - product.due[:, row]
        terms = np.stack([x @ w for x, w in zip(np.split(product.x, blocks, axis=1), np.split(own[index], blocks), strict=True)])
        factors = next(factors_of(terms, off))
        if not is_no_chance(off, factors @ terms, blocks):
            return
        block = int(np.abs(factors).argmax())
        found.append((int(row), block, 1 + float(factors[block])))
    row, block, factor = found[0]
    more = f" (and so at {len(found) - 1} more rows)" if len(found) > 1 else ""

    def scaled(weight: Array) -> Array:
        changed = np.array(weight)
        for row, block, factor in found:
            changed[row, block * size : (block + 1) * size] *= factor
        return changed

    yield f"block {block} of row {row} of {site.label_of(product.weight)} is {factor:.6g} times the file's{more}", scaled


def _rows(product: Product) -> Iterator[Change]:
    """Wrong rows have other weights: the least change that gives what was recorded. It says which rows, and no more."""
    rows = _wrong_rows(product)
    if rows is None or len(product.x) <= product.x.shape[1]:  # of fewer positions than columns any output is some weight's
        return
    change = np.linalg.lstsq(product.x, product.recorded[:, rows] - product.due[:, rows], rcond=None)[0].T

    def changed(weight: Array) -> Array:
        value = np.array(weight)
        value[rows] += change
        return value

    which = f"{plural(len(rows), 'row')} {listed(map(int, rows), _NAMED)}"
    yield f"{which} of {product.site.label_of(product.weight)} {'is' if len(rows) == 1 else 'are'} not the file's", changed

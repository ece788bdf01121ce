"""Mistakes of matrix products: another weight, its rows in another order, its layout, a part of the sum left out, damaged rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.words import listed, plural
from aprgraph.runtime.explain.alternative import LOOSE, SOLVED, Alternative, explains, goes_on, with_operand, with_value
from aprgraph.runtime.explain.block_weights import misreadings
from aprgraph.runtime.explain.orders import found_order, order_words
from aprgraph.runtime.explain.site import Site, is_left

#: Rows of a weight by which another one is tried, before all of it is multiplied.
_PROBED = 32
#: So many columns of a weight are one block of a sum: that of most formats.
_BLOCK = 32
#: A weight of more elements is not multiplied whole for each of many alternatives.
_LARGE = 1 << 26
_NAMED = 4
#: Attributes that say how many heads something has.
_HEADS = ("heads", "kv_heads")


@dataclass(frozen=True)
class _Product:
    """The part of a matrix product that one weight, the operand ``index``, makes: x [m, C] · W[R, C]ᵀ.

    ``recorded`` and ``due`` are [m, R]. Of a weight with a matrix for each expert, or head, it is the ``part`` of one of them.
    """

    site: Site
    index: int
    x: Array
    recorded: Array
    due: Array
    part: int | None = None

    @property
    def weight(self) -> Node:
        """The node of the weight."""
        return self.site.around.graph[self.site.operand_names[self.index]]

    def matrix(self, weight: Array) -> Array:
        """Of a decoded weight the matrix [R, C] of this product, perhaps one that decodes rows when they are asked for."""
        return weight if self.part is None else np.asarray(weight[self.part])

    def probes(self) -> Array:
        """Rows that are the furthest off."""
        off = np.square(self.recorded - self.due).sum(axis=0)
        return np.sort(np.argsort(-off, kind="stable")[:_PROBED])

    def fits(self, weight: Array) -> bool:
        """Whether another decoded weight explains some rows of the product."""
        if weight.shape != tuple(self.weight.type.bind()):
            return False
        rows = self.probes()
        matrix = self.matrix(weight)
        value = self.x @ (matrix[:, None] if matrix.ndim == 1 else np.asarray(matrix[rows]).T)
        return is_left(self.recorded[:, rows], value, self.due[:, rows])


def _products(site: Site) -> Iterator[_Product]:
    if site.recorded is None or not np.isfinite(site.recorded).all():
        return
    picks = traits_of(site.node).picks_rows_by
    if site.node.op == "head_linear":  # a matrix for each head, on its own columns
        heads, rows, columns = site.operands[1].shape
        off = np.square(site.recorded - site.due).reshape(-1, heads, rows).sum(axis=(0, 2))
        head = int(off.argmax())
        ours = slice(head * rows, (head + 1) * rows)
        x = site.operands[0][:, head * columns : (head + 1) * columns]
        yield _Product(site, 1, x, site.recorded[:, ours], site.due[:, ours], head)
        return
    if picks is None:
        start = 0
        for index, weight in site.weight_names():
            dims = site.around.graph[weight].type.bind()
            stop = start + (dims[0] if len(dims) == 2 else 1)
            columns = slice(start, stop)
            if np.square(site.recorded[:, columns] - site.due[:, columns]).sum() > 0:
                yield _Product(site, index, site.operands[0], site.recorded[:, columns], site.due[:, columns])
            start = stop
        return
    x, ids = site.operands[0], site.operands[1]
    off = np.square(site.recorded - site.due).sum(axis=-1)
    chosen = ids[off > 0]
    for index, _ in site.weight_names():
        if chosen.size:
            experts, counts = np.unique(chosen[~np.isnan(chosen)].astype(np.int64), return_counts=True)
            expert = int(experts[counts.argmax()])
            pairs = ids == expert
            inputs = x if x.ndim == 3 else np.repeat(x[:, None], ids.shape[1], axis=1)
            yield _Product(site, index, inputs[pairs], site.recorded[pairs], site.due[pairs], expert)


#: Of one product, what explains it: words, and what becomes of the weight.
_Change = tuple[str, Callable[[Array], Array]]


def _jointly(
    name: str, products: Iterable[_Product], find: Callable[[_Product], Iterable[_Change]], rank: int = 0
) -> Iterator[Alternative]:
    """One alternative of all weights of a node that a mistake explains: q and k may lie side by side."""
    found: dict[int, _Change] = {}
    site: Site | None = None
    for product in products:
        site = product.site
        change = next(iter(find(product)), None)
        if change is not None:
            found[product.index] = change
    if site is None or not found:
        return
    node = site

    def compute(operands: Sequence[Array]) -> Array:
        return node.compute([found[i][1](operand) if i in found else operand for i, operand in enumerate(operands)])

    yield Alternative(name, ", and ".join(words for words, _ in found.values()), compute, rank)


@explains("linear", "expert_linear", "head_linear")
def other_weight(site: Site) -> Iterator[Alternative]:
    """It multiplies by another tensor of the same size: of another layer, or of another place."""

    def find(product: _Product) -> Iterator[_Change]:
        for other in site.weights_like(product.weight.name):
            value = site.read(other)
            if product.fits(value):
                words = f"{site.label_of(other)} is multiplied by in place of {site.label_of(product.weight)}"
                yield words, partial(_given, value)
                return

    yield from _jointly("other-weight", _products(site), find)


@explains("linear", "expert_linear", "head_linear")
def other_layout(site: Site) -> Iterator[Alternative]:
    """A matrix [out, in] is read as [in, out], or transposed."""

    def find(product: _Product) -> Iterator[_Change]:
        weight = site.operands[product.index]
        if isinstance(weight, np.ndarray) and weight.ndim > 1 and weight.size <= _LARGE:
            if product.fits(_transposed(weight)):
                yield f"{site.label_of(product.weight)} is read as [in, out]", _transposed
            elif product.fits(np.swapaxes(weight, -1, -2)):
                yield f"{site.label_of(product.weight)} is transposed", partial(np.swapaxes, axis1=-1, axis2=-2)
            elif product.fits(_laid_out_otherwise(weight)):
                yield f"{site.label_of(product.weight)} was laid out as [in, out]", _laid_out_otherwise

    yield from _jointly("transposed", _products(site), find)


@explains("linear", "expert_linear", "head_linear")
def misread_blocks(site: Site) -> Iterator[Alternative]:
    """The blocks of a weight are decoded otherwise."""
    products = list(_products(site))
    found: dict[str, dict[int, _Change]] = {}
    for product in products:
        weight = site.operands[product.index]
        if math.prod(weight.shape) > _LARGE:
            continue
        for mistake, words, change in misreadings(site.around.model, product.weight):
            if product.fits(change(np.asarray(weight))):
                found.setdefault(mistake, {})[product.index] = f"{site.label_of(product.weight)} is decoded {words}", change
    for mistake, changes in found.items():
        yield from _jointly(mistake, products, partial(_known, changes))


@explains("linear", "expert_linear")
def rows_in_another_order(site: Site) -> Iterator[Alternative]:
    """The rows of a weight have changed places."""
    heads = [node.attr_int(name) for node in site.around.graph if node.layer == site.node.layer for name in _HEADS if name in node.attrs]

    def find(product: _Product) -> Iterator[_Change]:
        order = found_order(product.recorded, product.due)
        if order is not None:
            yield order_words(order, site.label_of(product.weight), heads), partial(_reordered, order)

    yield from _jointly("rows-reordered", _products(site), find)


@explains("linear", "expert_linear")
def part_of_the_sum(site: Site) -> Iterator[Alternative]:
    """Some columns of every sum count otherwise: left out, or more than once."""

    def find(product: _Product) -> Iterator[_Change]:
        weight = site.operands[product.index]
        columns = product.x.shape[1]
        if len(weight.shape) < 2 or columns % _BLOCK or columns // _BLOCK < 2:
            return
        rows = product.probes()
        matrix = np.asarray(product.matrix(weight)[rows])
        # terms[b]: what the columns of block b add to the probed rows, [m · rows]
        parts = zip(*(np.split(side, columns // _BLOCK, axis=1) for side in (product.x, matrix)), strict=True)
        terms = np.stack([(x @ w.T).reshape(-1) for x, w in parts])
        off = (product.recorded[:, rows] - product.due[:, rows]).reshape(-1)
        for factors in _factors_of(terms, off):
            if is_left(off, factors @ terms, np.zeros_like(off)):
                wrong = [b for b, factor in enumerate(factors) if abs(factor) > 1e-3]
                which = listed((f"{b * _BLOCK} to {(b + 1) * _BLOCK - 1}" for b in wrong), _NAMED)
                what = "are left out of every sum" if all(abs(factors[b] + 1) < 1e-3 for b in wrong) else "count otherwise in every sum"
                scale = np.repeat(1.0 + factors, _BLOCK)
                yield f"the columns {which} of {site.label_of(product.weight)} {what}", partial(_scaled, scale)
                return

    yield from _jointly("sum-part", _products(site), find, SOLVED)


def _factors_of(terms: Array, off: Array) -> Iterator[Array]:
    """By how much more each block may count: one alone, the last ones, any where there are equations enough."""
    blocks = len(terms)
    energy = np.square(terms).sum(axis=1)
    single = np.where(energy > 0, (terms @ off) / np.where(energy > 0, energy, 1.0), 0.0)
    left = np.square(off).sum() - single * (terms @ off)
    best = int(np.argmin(left))
    yield np.where(np.arange(blocks) == best, single, 0.0)
    if 2 * blocks <= off.size:
        factors = np.linalg.lstsq(terms.T, off, rcond=None)[0]
        yield np.where(np.abs(factors) > 1e-3, factors, 0.0)


@explains("linear")
def damaged_rows(site: Site) -> Iterator[Alternative]:
    """A few rows of a weight are other than the file's: which, and of one row which block."""
    products = list(_products(site))
    for name, find, rank in (("damaged-elements", _elements, SOLVED), ("damaged-blocks", _blocks, SOLVED), ("damaged-rows", _rows, LOOSE)):
        yield from _jointly(name, products, find, rank)


def _wrong_rows(product: _Product) -> Array | None:
    """The rows that are off, if they are few."""
    off = np.square(product.recorded - product.due).sum(axis=0)
    rows = np.flatnonzero(off > 1e-6 * off.max())
    few = 0 < rows.size <= max(1, product.due.shape[1] // 8)
    return rows if few and len(product.x) > 1 and len(product.weight.type.dims) == 2 else None


def _elements(product: _Product) -> Iterator[_Change]:
    """One element of each wrong row is another number: what is off is that column of x times a number."""
    rows = _wrong_rows(product)
    if rows is None or len(product.x) < 3:  # of two positions several columns may do
        return
    energy = np.square(product.x).sum(axis=0)
    found: list[tuple[int, int, float]] = []
    for row in rows:
        off = product.recorded[:, row] - product.due[:, row]
        along = off @ product.x
        column = int(np.argmax(np.where(energy > 0, np.square(along) / np.where(energy > 0, energy, 1.0), 0.0)))
        change = float(along[column] / energy[column])
        if not is_left(off, change * product.x[:, column], np.zeros_like(off)):
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


def _blocks(product: _Product) -> Iterator[_Change]:
    """One block of each wrong row is the file's times a number."""
    rows = _wrong_rows(product)
    site = product.site
    fmt = site.around.model.tensor(product.weight.attr_str("tensor")).format
    size = fmt.elements if fmt.elements > 1 else _BLOCK
    if rows is None or product.x.shape[1] % size:
        return
    blocks = product.x.shape[1] // size
    own = np.asarray(site.operands[product.index][rows])
    found: list[tuple[int, int, float]] = []
    for index, row in enumerate(rows):
        off = product.recorded[:, row] - product.due[:, row]
        terms = np.stack([x @ w for x, w in zip(np.split(product.x, blocks, axis=1), np.split(own[index], blocks), strict=True)])
        factors = next(_factors_of(terms, off))
        if not is_left(off, factors @ terms, np.zeros_like(off)):
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


def _rows(product: _Product) -> Iterator[_Change]:
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


def _known(changes: Mapping[int, _Change], product: _Product) -> list[_Change]:
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


@explains("bias_add", "expert_bias_add")
def other_bias(site: Site) -> Iterator[Alternative]:
    """The biases are left out, added twice, or another layer's; some of them only."""
    biases = site.weight_names()
    name, verb = (site.label(biases[0][0]), "is") if len(biases) == 1 else ("the biases", "are")
    yield Alternative("bias-missing", f"{name} {verb} left out", goes_on(0))
    twice = with_operand(site, 0, lambda x: site.compute([x, *site.operands[1:]]))
    yield Alternative("bias-twice", f"{name} {verb} added twice", twice)
    for index, weight in biases:
        if len(biases) > 1:
            yield Alternative("bias-missing", f"{site.label(index)} is left out", with_operand(site, index, np.zeros_like))
        for other in site.weights_like(weight):
            change = with_value(site, index, site.read(other))
            if site.fits(change(site.operands)):
                yield Alternative("other-weight", f"{site.label_of(other)} is added in place of {site.label(index)}", change)
                break
    if len(biases) == 1 and site.recorded is not None and site.node.op == "bias_add":
        yield from _part_of_bias(site)


def _part_of_bias(site: Site) -> Iterator[Alternative]:
    """Of one bias for several outputs a part is left out."""
    assert site.recorded is not None
    bias = np.asarray(site.operands[1])
    absent = np.abs((site.recorded - site.operands[0]).mean(axis=0)) < 1e-3 * np.abs(bias)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], absent.astype(int), [0]])))
    if len(edges) == 2:
        words = f"the elements {edges[0]} to {edges[1] - 1} of {site.label(1)} are left out"
        yield Alternative("bias-missing", words, with_value(site, 1, np.where(absent, 0.0, bias)))

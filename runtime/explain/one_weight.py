"""A matrix product by the weights that it multiplies by, one at a time: what is right, what was recorded, and what may be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.ops.heads import is_shared
from aprgraph.runtime.explain.alternative import Alternative
from aprgraph.runtime.explain.site import LEFT, Site, is_left

#: Rows of a weight by which another one is tried, before all of it is multiplied.
_PROBED = 32
#: So many columns of a weight are one block of a sum: that of most formats.
BLOCK = 32
#: How likely one of many changes may explain an error by chance.
_BY_CHANCE = 1e-3


@dataclass(frozen=True)
class Product:
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


def products_of(site: Site) -> Iterator[Product]:
    """The parts of a product that are not as they should be; none where it is not known what was recorded."""
    if site.recorded is None or not np.isfinite(site.recorded).all():
        return
    picks = traits_of(site.node).picks_rows_by
    if site.node.op == "head_linear":  # a matrix for each head, on its own columns
        heads, rows, columns = site.operands[1].shape
        off = np.square(site.recorded - site.due).reshape(-1, heads, rows).sum(axis=(0, 2))
        head = int(off.argmax())
        ours = slice(head * rows, (head + 1) * rows)
        x = site.operands[0]
        x = x if is_shared(site.node.attrs) else x[:, head * columns : (head + 1) * columns]
        yield Product(site, 1, x, site.recorded[:, ours], site.due[:, ours], head)
        return
    if picks is None:
        start = 0
        for index, weight in site.weight_names():
            dims = site.around.graph[weight].type.bind()
            stop = start + (dims[0] if len(dims) == 2 else 1)
            columns = slice(start, stop)
            if np.square(site.recorded[:, columns] - site.due[:, columns]).sum() > 0:
                yield Product(site, index, site.operands[0], site.recorded[:, columns], site.due[:, columns])
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
            yield Product(site, index, inputs[pairs], site.recorded[pairs], site.due[pairs], expert)


#: Of one product, what explains it: words, and what becomes of the weight.
Change = tuple[str, Callable[[Array], Array]]


def jointly(name: str, products: Iterable[Product], find: Callable[[Product], Iterable[Change]], rank: int = 0) -> Iterator[Alternative]:
    """One alternative of all weights of a node that a mistake explains: q and k may lie side by side."""
    found: dict[int, Change] = {}
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


def factors_of(terms: Array, off: Array) -> Iterator[Array]:
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


def is_no_chance(off: Array, explained: Array, tried: int) -> bool:
    """Whether the best of ``tried`` changes explains an error [n] so well that none of them would by chance.

    Of a random error a change of one number leaves the part e of the energy or less with a chance of about e^((n - 1) / 2).
    """
    if off.size < 3:
        return False
    most = min(LEFT, (_BY_CHANCE / tried) ** (2 / (off.size - 1)))
    left, energy = (float(np.square(one).sum()) for one in (off - explained, off))
    return bool(left <= most * energy)

"""Weights whose rows or columns count otherwise, and weights with a change of low rank, as an adapter is one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import plural, runs
from aprgraph.runtime.explain.alternative import LOOSE, SOLVED, Alternative, explains
from aprgraph.runtime.explain.one_weight import Change, Product, is_no_chance, jointly, products_of
from aprgraph.runtime.explain.site import Site, is_left

#: Factors that agree to this are the same.
_SAME = 1e-3
#: A weight of more columns is not solved for: it takes their third power.
_MOST_COLUMNS = 2048
#: More equations than columns by this factor.
_SPARE = 2
#: A singular value below this part of the largest one is rounding.
_ROUNDING = 1e-4
_NAMED = 4
#: A factor is no noise that is so many times the usual one, and nothing is said where that is more than this.
_ABOVE_NOISE, _MOST_NOISE = 10.0, 0.25


@explains("linear")
def factors_of_rows(site: Site) -> Iterator[Alternative]:
    """Each row of a weight counts by a factor of its own, as where scales are forgotten."""

    def find(product: Product) -> Iterator[Change]:
        if len(product.x) < 3 or len(product.weight.type.dims) != 2:
            return
        energy = np.square(product.due).sum(axis=0)
        with np.errstate(all="ignore"):
            factors = np.where(energy > 0, (product.recorded * product.due).sum(axis=0) / energy, 1.0)
        off = product.recorded - product.due
        more = product.due * (factors - 1)
        # Rows that are off by noise alone count as they should: a factor says nothing of these.
        known = [abs(factors[row] - 1) > _SAME and is_no_chance(off[:, row], more[:, row], len(factors)) for row in range(len(factors))]
        factors = np.where(known, factors, 1.0)
        changed = np.flatnonzero(known)
        if len(changed) < 2 or not is_left(product.recorded, product.due * factors, product.due):
            return
        low, high = factors[changed].min(), factors[changed].max()
        times = f"{low:.4g}" if high - low < _SAME * abs(high) else f"{low:.4g} to {high:.4g}"
        which = "all rows" if len(changed) == len(factors) else f"{len(changed)} of {len(factors)} rows ({runs(changed, _NAMED)})"
        yield f"{which} of {site.label_of(product.weight)} are {times} times the file's", partial(_rows_scaled, factors)

    yield from jointly("rows-scaled", products_of(site), find, SOLVED)


@explains("linear")
def columns_of_sums(site: Site) -> Iterator[Alternative]:
    """Single columns of every sum count otherwise: with the other sign, left out, or more than once, as where shards overlap."""

    def find(product: Product) -> Iterator[Change]:
        columns = product.x.shape[1]
        weight = site.operands[product.index]
        if len(weight.shape) != 2 or columns > _MOST_COLUMNS or len(product.x) < 2:
            return
        rows = _furthest_off(product, -(-_SPARE * columns // len(product.x)))
        if len(rows) * len(product.x) < _SPARE * columns:
            return
        matrix = np.asarray(weight[rows])
        off = product.recorded[:, rows] - product.due[:, rows]
        # off[m, r] is the sum over c of f[c] x[m, c] W[r, c]: of f the normal equations.
        gram = (product.x.T @ product.x) * (matrix.T @ matrix)
        along = ((off @ matrix) * product.x).sum(axis=0)
        factors = np.linalg.solve(gram + 1e-14 * np.trace(gram) / columns * np.eye(columns), along)
        # Most columns count as they should: what their factors are off by is noise.
        noise = max(_SAME, _ABOVE_NOISE * float(np.median(np.abs(factors))))
        if noise > _MOST_NOISE:
            return
        factors = np.where(np.abs(factors - np.rint(factors)) < noise, np.rint(factors), factors)
        changed = np.flatnonzero(factors)
        if not 0 < 2 * changed.size <= columns or not is_left(off, (product.x * factors) @ matrix.T, np.zeros_like(off)):
            return
        which = f"the {plural(changed.size, 'column')} {runs(changed, _NAMED)} of {site.label_of(product.weight)}"
        values = {float(1 + factor) for factor in factors[changed]}
        how = {0.0: "left out of", -1.0: "taken with the other sign in", 2.0: "counted twice in"}.get(
            values.pop() if len(values) == 1 else np.nan
        )
        verb = "is" if changed.size == 1 else "are"
        yield f"{which} {verb} {how or 'counted otherwise in'} every sum", partial(_columns_scaled, 1 + factors)

    yield from jointly("sum-columns", products_of(site), find, SOLVED)


@explains("linear")
def low_rank(site: Site) -> Iterator[Alternative]:
    """The weight differs from the file's by a matrix of low rank, as with an adapter (LoRA) that was merged or left out."""

    def find(product: Product) -> Iterator[Change]:
        off = product.recorded - product.due
        positions, rows = off.shape
        most = min(positions, product.x.shape[1], rows) // 3
        if not most or len(product.weight.type.dims) != 2 or _is_local(off) or not np.isfinite(off).all():
            return
        if is_left(off, np.broadcast_to(off.mean(axis=0), off.shape), np.zeros_like(off)):
            return  # the same at every position, whatever that reads: a bias
        left, values, right = np.linalg.svd(off, full_matrices=False)
        rank = int((values > _ROUNDING * values[0]).sum())
        if not 0 < rank <= most:
            return
        # The least change of the weight that gives as much.
        change = np.linalg.lstsq(product.x, (left[:, :rank] * values[:rank]) @ right[:rank], rcond=None)[0].T
        words = f"{site.label_of(product.weight)} has a change of rank {rank}, as of an adapter (LoRA), which the file has not"
        yield words, partial(_with_change, change)

    yield from jointly("low-rank", products_of(site), find, LOOSE)


def _furthest_off(product: Product, count: int) -> Array:
    off = np.square(product.recorded - product.due).sum(axis=0)
    return np.sort(np.argsort(-off, kind="stable")[:count])


def _is_local(off: Array) -> bool:
    """Whether most rows or columns are right: then few of them are wrong, which is of low rank by itself."""
    energy = np.square(off)
    for axis in (0, 1):
        along = energy.sum(axis=axis)
        if 2 * (along > 1e-6 * along.max()).sum() <= along.size:
            return True
    return False


def _rows_scaled(factors: Array, weight: Array) -> Array:
    return np.asarray(weight) * factors[:, None]


def _columns_scaled(factors: Array, weight: Array) -> Array:
    return np.asarray(weight) * factors


def _with_change(change: Array, weight: Array) -> Array:
    return np.asarray(weight) + change

"""What a product reads, in fewer bits than it was recorded in: half precisions, TF32, int8 and FP8, and sums that are kept in float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, Changed, explains
from aprgraph.runtime.explain.half_precision import FORMATS, float16, rounding
from aprgraph.runtime.explain.one_weight import Product, products_of
from aprgraph.runtime.explain.site import Site, is_left
from aprgraph.runtime.explain.static_scales import STATIC, StaticFormat, find_scale
from aprgraph.runtime.explain.weight_formats import in_fp8, in_int8

#: What becomes of the rows of what is read, and of those of the weight; None of what stays as it is.
_Rounded = Callable[[Array], Array]
#: Products of which nothing was recorded are tried with every format up to so many elements of what they read.
_SMALL = 1 << 18
#: So many positions and rows of a product tell a scale.
_POSITIONS, _ROWS = 8, 16
#: Products that are added in float32 before a sum in float16 takes them up: one, a vector's, a tensor core's.
_CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128)
_MATRIX = 2
#: Sums of more products are not added up one by one.
_MOST_COLUMNS = 1 << 14
#: What share of sums has to be right to the bit.
_EQUAL = 0.9
#: Of TF32 the bits of the 23 behind the point that are left out.
_TF32_BITS = 13


@explains("linear", "expert_linear", alone=True)
def rounded_inputs(site: Site) -> Iterator[Alternative]:
    """What the product reads, and perhaps its weight, is in a half precision, TF32, int8 or FP8, with a scale for each position or one."""
    if not _is_known(site):
        return
    weights = [index for index, _ in site.weight_names()]
    probes = _probes(site)
    for name, words, of_inputs, of_weights in _formats():
        if probes is not None and not _fits(probes, of_inputs, of_weights):
            continue
        changes: dict[int, _Rounded] = {0: of_inputs}
        if of_weights is not None:
            changes |= dict.fromkeys(weights, partial(rounding, of_weights))
        change = Changed(site, changes, {})
        if site.fits(change(site.operands)):
            yield Alternative(f"inputs-{name}", words, change, GENERAL)


@explains("linear", "expert_linear", alone=True)
def static_inputs(site: Site) -> Iterator[Alternative]:
    """What the product reads is int8 or FP8 with one scale that was set beforehand, beyond which it is cut off."""
    product = _probes(site) if _is_known(site) else None
    if product is None:
        return
    off = np.square(product.recorded - product.due).sum(axis=1)
    positions, rows = np.sort(np.argsort(-off, kind="stable")[:_POSITIONS]), product.probes()[:_ROWS]
    matrix = np.asarray(product.matrix(product.site.operands[product.index])[rows])
    recorded, due = (values[np.ix_(positions, rows)] for values in (product.recorded, product.due))
    energy = float(np.square(recorded - due).sum())
    for one in STATIC:
        scale = find_scale(one, product.x[positions], lambda x: x @ matrix.T, recorded, energy)
        if scale is None:
            continue
        change = Changed(site, {0: partial(one.rounded, scale=scale)}, {})
        if site.fits(change(site.operands)):
            yield Alternative(f"inputs-static-{one.name}", _in_words(one, scale, site.operands[0]), change, SOLVED)


def _in_words(one: StaticFormat, scale: float, x: Array) -> str:
    words = f"what the product reads is {one.words} with one scale that was set beforehand"
    largest = float(np.abs(x).max())
    return f"{words}, and is cut off at it" if largest > scale * one.most * (1 + 0.5 / one.most) else words


@explains("linear", alone=True)
def half_sums(site: Site) -> Iterator[Alternative]:
    """The sums of the product are kept in float16, to which each partial sum is rounded."""
    product = _probes(site) if _is_known(site) else None
    if product is None or not np.array_equal(float16(product.recorded), product.recorded):
        return
    recorded, rows = site.recorded, product.probes()
    matrix = np.asarray(product.matrix(product.site.operands[product.index])[rows])
    columns = product.x.shape[1]
    for is_rounded in (True, False):
        for chunk in (chunk for chunk in _CHUNKS if chunk < columns <= _MOST_COLUMNS):
            if not _are_sums(product.recorded[:, rows], _summed(chunk, is_rounded, product.x, matrix), product.due[:, rows]):
                continue
            parts = [_summed(chunk, is_rounded, product.x, np.asarray(site.operands[index][:])) for index, _ in site.weight_names()]
            if recorded is not None and _are_sums(recorded, np.concatenate(parts, axis=-1), site.due):
                each = "each product" if chunk == 1 else f"each {chunk} products"
                words = f"the sums of the product are kept in float16, rounded behind {each}"
                yield Alternative("sums-float16", words, lambda _: recorded, GENERAL)
                return


def _are_sums(recorded: Array, sums: Array, due: Array) -> bool:
    """Whether nearly all of what was recorded are those sums to the bit: of others one addition may have been rounded otherwise."""
    return sums.shape == recorded.shape and float(np.mean(sums == recorded)) >= _EQUAL and is_left(recorded, sums, due)


def _summed(chunk: int, is_rounded: bool, x: Array, matrix: Array) -> Array:
    """x [m, C] by the matrix [R, C], each ``chunk`` products added and rounded to float16 with what is there."""
    if is_rounded:
        x, matrix = float16(x), float16(matrix)
    total = np.zeros((len(x), len(matrix)))
    for start in range(0, x.shape[1], chunk):
        partial_sum = x[:, start : start + chunk] @ matrix[:, start : start + chunk].T
        total = float16((total + partial_sum).astype(np.float32))
    return total


def _is_known(site: Site) -> bool:
    """Whether there is something to compare, or little to try."""
    x = site.operands[0]
    if not np.isfinite(x).all():
        return False
    return x.size <= _SMALL if site.recorded is None else bool(np.isfinite(site.recorded).all())


def _probes(site: Site) -> Product | None:
    """The part of the product that is the furthest off; None where it was not recorded."""
    products = [one for one in products_of(site) if len(one.matrix(site.operands[one.index]).shape) == _MATRIX]
    return max(products, key=lambda one: float(np.square(one.recorded - one.due).sum()), default=None)


def _fits(product: Product, of_inputs: _Rounded, of_weights: _Rounded | None) -> bool:
    """Whether some rows of the product are as they would be: a cheaper question than all of it."""
    rows = product.probes()
    matrix = np.asarray(product.matrix(product.site.operands[product.index])[rows])
    value = of_inputs(product.x) @ (matrix if of_weights is None else of_weights(matrix)).T
    return is_left(product.recorded[:, rows], value, product.due[:, rows])


def _formats() -> Iterator[tuple[str, str, _Rounded, _Rounded | None]]:
    """The name of a mistake, words, what becomes of what is read, and of the weight."""
    for name, rounded in FORMATS:
        yield name, f"what the product reads is rounded to {name}", rounded, None
        yield name, f"the product takes both of its factors in {name}", rounded, rounded
    for how, tf32 in _TF32.items():
        yield "tf32", f"the product is computed in TF32: both of its factors have 10 bits behind the point{how}", tf32, tf32
    for words, each in (("a scale for each position", True), ("one scale", False)):
        for kind, called, rounded_to in (("int8", "int8", in_int8), ("fp8", "FP8 (E4M3)", in_fp8)):
            of_inputs = partial(_by_scale, rounded_to, is_of_each=each)
            yield kind, f"what the product reads is {called} with {words}", of_inputs, None
            both = f"what the product reads is {called} with {words}, and so is its weight with one for each row"
            yield kind, both, of_inputs, partial(_by_scale, rounded_to, is_of_each=True)


def _by_scale(rounded: Callable[[Array, Array | float], Array], x: Array, *, is_of_each: bool) -> Array:
    """Rounded by the scale of the largest number of each row, or of all."""
    largest = np.abs(x).max(axis=-1, keepdims=True) if is_of_each else float(np.abs(x).max())
    return rounded(x, largest)


def _cut_to_tf32(x: Array) -> Array:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.asarray((bits & np.uint32(0xFFFFFFFF << _TF32_BITS & 0xFFFFFFFF)).view(np.float32).astype(np.float64))


def _rounded_to_tf32(x: Array) -> Array:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return _cut_to_tf32((bits + np.uint32(1 << (_TF32_BITS - 1))).view(np.float32))


_TF32: Mapping[str, _Rounded] = {"": _rounded_to_tf32, ", the others cut off": _cut_to_tf32}

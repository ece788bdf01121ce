"""Weights that an engine keeps in fewer bits than the file has: int8, FP8, NF4, or blocks of GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, explains
from aprgraph.runtime.explain.half_precision import rounding
from aprgraph.runtime.explain.one_weight import Change, Product, jointly, products_of
from aprgraph.runtime.explain.site import Site, is_left

#: A weight of more elements is not looked through for its largest one.
_LARGE = 1 << 26
_INT8 = 127.0
#: The 16 numbers of NF4 (QLoRA: Dettmers et al. 2023, arXiv:2305.14314, appendix E).
_NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
_NF4_BLOCK, _BLOCK = 64, 32
_BLOCK_FORMATS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


#: Rows of a weight [R, C] as they are kept, given the largest number of the whole.
_Rounded = Callable[[Array, float], Array]


@explains("linear", "expert_linear", "head_linear", alone=True)
def rounded_weights(site: Site) -> Iterator[Alternative]:
    """A weight is kept in int8, FP8 or NF4, with scales, or in blocks: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1."""
    products = [one for one in products_of(site) if len(site.operands[one.index].shape) > 1]
    weights = {one.index: site.operands[one.index] for one in products}
    # One that decodes rows when they are asked for is too large to be looked through.
    largest = {index: _largest(weight) for index, weight in weights.items() if isinstance(weight, np.ndarray) and weight.size <= _LARGE}
    for name, words, rounded, is_of_all in _formats():
        some = [one for one in products if one.index in largest or not is_of_all]
        yield from jointly(f"weights-{name}", some, partial(_kept, words, rounded, largest), GENERAL)


def _largest(weight: Array) -> float:
    return float(max(weight.max(initial=0.0), -weight.min(initial=0.0)))


def _kept(words: str, rounded: _Rounded, largest: Mapping[int, float], product: Product) -> Iterator[Change]:
    """What explains one product, where it explains those of its rows that are the furthest off."""
    most, rows = largest.get(product.index, 0.0), product.probes()
    matrix = product.matrix(product.site.operands[product.index])
    value = product.x @ rounded(np.asarray(matrix[rows]), most).T
    if is_left(product.recorded[:, rows], value, product.due[:, rows]):
        yield f"{product.site.label_of(product.weight)} is kept in {words}", partial(rounding, lambda own: rounded(own, most))


def _formats() -> Iterator[tuple[str, str, _Rounded, bool]]:
    """The name of a mistake, words, what rounds to the format, and whether its scale is of the whole weight."""
    yield "int8", "int8 with a scale for each row", lambda rows, _: in_int8(rows, _of_rows(rows)), False
    yield "int8", "int8 with one scale", in_int8, True
    yield "fp8", "FP8 (E4M3) with a scale for each row", lambda rows, _: in_fp8(rows, _of_rows(rows)), False
    yield "fp8", "FP8 (E4M3) with one scale", in_fp8, True
    yield "fp8", "FP8 (E4M3) without a scale", lambda rows, _: in_fp8(rows, None), False
    yield "nf4", f"NF4 with a scale for every {_NF4_BLOCK} elements", _in_nf4, False
    for name in _BLOCK_FORMATS:
        yield name.lower(), name, partial(_in_blocks, name), False


def _of_rows(rows: Array) -> Array:
    return np.asarray(np.abs(rows).max(axis=-1, keepdims=True))


def _scaled(rows: Array, most: float, largest: Array | float, rounded: Callable[[Array], Array]) -> Array:
    scale = np.float32(1) * np.asarray(largest, np.float32) / np.float32(most)
    scale = np.where(scale == 0, np.float32(1), scale).astype(np.float64)
    return np.asarray(rounded(rows / scale) * scale)


def in_int8(rows: Array, largest: Array | float) -> Array:
    """Rounded to int8, by the scale of the ``largest`` numbers."""
    return _scaled(rows, _INT8, largest, np.rint)


def in_fp8(rows: Array, largest: Array | float | None) -> Array:
    """Rounded to FP8, E4M3, by the scale of the ``largest`` numbers, or without one."""
    import ml_dtypes  # noqa: PLC0415 -- few audits come here

    kind = ml_dtypes.float8_e4m3fn
    most = float(ml_dtypes.finfo(kind).max)

    def rounded(value: Array) -> Array:
        return np.asarray(np.clip(value, -most, most).astype(np.float32).astype(kind).astype(np.float64))

    return rounded(rows) if largest is None else _scaled(rows, most, largest, rounded)


def _in_nf4(rows: Array, _largest: float) -> Array:
    if rows.shape[-1] % _NF4_BLOCK:
        return rows
    blocks = rows.reshape(*rows.shape[:-1], -1, _NF4_BLOCK)
    scale = np.abs(blocks).max(axis=-1, keepdims=True)
    nearest = np.searchsorted((_NF4[1:] + _NF4[:-1]) / 2, blocks / np.where(scale == 0, 1.0, scale))
    return np.asarray((_NF4[nearest] * scale).reshape(rows.shape))


def _in_blocks(name: str, rows: Array, _largest: float) -> Array:
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 -- slow import, and few audits come here
    from gguf.quants import dequantize, quantize  # noqa: PLC0415

    if rows.shape[-1] % _BLOCK:
        return rows
    kind = GGMLQuantizationType[name]
    return np.asarray(dequantize(quantize(rows.astype(np.float32), kind), kind).astype(np.float64))

"""Mistakes of half precisions: a value that was rounded to one, weights that are kept in one, a KV cache that holds one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, Changed, explains
from aprgraph.runtime.explain.one_weight import Product, products_of
from aprgraph.runtime.explain.site import Site, is_left

#: From here on float16 rounds to Inf.
_ROUNDS_TO_INF = 65520.0
#: A table [V, E] has as many dims.
_MATRIX = 2


def float16(x: Array) -> Array:
    """Rounded to float16."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def bfloat16(x: Array) -> Array:
    """Rounded to bfloat16."""
    import ml_dtypes  # noqa: PLC0415 -- few audits come here

    return np.asarray(x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64))


def _fp8(dtype: str, x: Array) -> Array:
    """Rounded to FP8 without a scale; what is beyond its largest number is that, as engines cast."""
    import ml_dtypes  # noqa: PLC0415 -- few audits come here

    kind = getattr(ml_dtypes, dtype)
    most = float(ml_dtypes.finfo(kind).max)
    return np.asarray(np.clip(x, -most, most).astype(np.float32).astype(kind).astype(np.float64))


#: Half precisions, by name, with what rounds to them.
FORMATS: tuple[tuple[str, Callable[[Array], Array]], ...] = (("float16", float16), ("bfloat16", bfloat16))

#: What a KV cache may be kept in: the name of the mistake, words, and what rounds to it.
_CACHES: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
    *((name, name, rounded) for name, rounded in FORMATS),
    ("fp8-e4m3", "FP8 (E4M3) without a scale", partial(_fp8, "float8_e4m3fn")),
    ("fp8-e5m2", "FP8 (E5M2) without a scale", partial(_fp8, "float8_e5m2")),
)


@explains()
def half_precision(site: Site) -> Iterator[Alternative]:
    """It was rounded to, or overflowed, a half precision."""
    if site.recorded is None or not site.recorded.size:
        return
    recorded, due = site.recorded, site.due
    for name, rounded in FORMATS:
        beyond = np.abs(due) > (_ROUNDS_TO_INF if name == "float16" else math.inf)
        finite = ~beyond & np.isfinite(due)
        with np.errstate(all="ignore"):
            is_rounded = np.array_equal(rounded(recorded[finite]), recorded[finite])
            near = np.abs(recorded[finite] - due[finite]) <= np.abs(due[finite]) * (2.0**-8 if name == "bfloat16" else 2.0**-10) + 1e-7
        overflowed = np.isinf(recorded[beyond]).all() if beyond.any() else True
        if is_rounded and near.all() and overflowed and (beyond.any() or np.any(recorded != due)):
            words = f"{site.called} overflows {name}" if beyond.any() else f"{site.called} is rounded to {name}"
            yield Alternative("half-precision", words, lambda _: recorded, GENERAL)


@explains("attn_scores", "attn_softmax", "attn_mix", "linear", "rms_norm", "mul", "silu", "gelu")
def half_between(site: Site) -> Iterator[Alternative]:
    """It was not recorded, and goes on rounded to a half precision."""
    if site.recorded is not None:
        return
    for name, rounded in FORMATS:
        yield Alternative("half-precision", f"{site.called} is rounded to {name}", partial(_rounded_value, site, rounded), GENERAL)


def _rounded_value(site: Site, rounded: Callable[[Array], Array], operands: Sequence[Array]) -> Array:
    return rounded(site.compute(operands))


@explains("attn_softmax")
def half_softmax(site: Site) -> Iterator[Alternative]:
    """The softmax reads scores in a half precision, and gives one, or what it gives alone is one."""
    for name, rounded in FORMATS:
        change = Changed(site, {0: rounded}, {})
        if site.fits(change(site.operands)):
            yield Alternative(f"softmax-{name}", f"the softmax reads scores that are rounded to {name}", change, GENERAL)

        def both(operands: Sequence[Array], rounded: Callable[[Array], Array] = rounded) -> Array:
            return rounded(site.compute([rounded(operands[0]), *operands[1:]]))

        if site.fits(both(site.operands)):
            yield Alternative(f"softmax-{name}", f"the softmax is taken in {name}: scores and weights are rounded", both, GENERAL)


@explains("attn_scores", "attn_mix", "attention", alone=True)
def half_cache(site: Site) -> Iterator[Alternative]:
    """The KV cache is a half precision, or FP8: what attention reads of it is rounded."""
    places = (2,) if site.node.op == "attention" else ()
    for name, words, rounded in _CACHES:
        change = Changed(site, dict.fromkeys((1, *places), rounded), {})
        if site.fits(change(site.operands)):
            yield Alternative(f"cache-{name}", f"k and v of the KV cache are {words}", change, GENERAL)


class _Rounded:
    """A weight [R, C] or [X, R, C] of which each part is rounded when it is asked for: a large one is decoded in parts."""

    def __init__(self, rounded: Callable[[Array], Array], weight: Array) -> None:
        self._weight, self._rounded = weight, rounded
        self.shape = weight.shape

    def __getitem__(self, part: int | slice | Array) -> Array:
        return self._rounded(np.asarray(self._weight[part]))


def rounding(rounded: Callable[[Array], Array], weight: Array) -> Array:
    """A weight that is rounded; of one that decodes rows when they are asked for, those rows."""
    if hasattr(weight, "astype"):
        return rounded(weight)
    parts: Array = _Rounded(rounded, weight)  # type: ignore[assignment]
    return parts


@explains("linear", "expert_linear", "head_linear", "embed", "rms_norm", "layer_norm", "bias_add", alone=True)
def half_weights(site: Site) -> Iterator[Alternative]:
    """Weights are kept in a half precision."""
    places = [index for index, _ in site.weight_names()]
    if not places or site.recorded is None or not np.isfinite(site.recorded).all():
        return
    products = list(products_of(site)) if traits_of(site.node).is_matmul else []
    for name, rounded in FORMATS:
        change = Changed(site, dict.fromkeys(places, partial(rounding, rounded)), {})
        if any(_fits(product, rounded) for product in products) or (not products and site.fits(change(site.operands))):
            yield Alternative(f"weights-{name}", f"the weights are rounded to {name}", change, GENERAL)


def _fits(product: Product, rounded: Callable[[Array], Array]) -> bool:
    """Whether a rounded weight explains some rows of a product: a cheaper question than all of it."""
    rows = product.probes()
    matrix = product.matrix(product.site.operands[product.index])
    if len(matrix.shape) != _MATRIX:
        return False
    value = product.x @ rounded(np.asarray(matrix[rows])).T
    return is_left(product.recorded[:, rows], value, product.due[:, rows])

"""Mistakes of which expert's matrices are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import joined
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, explains, with_operand
from aprgraph.runtime.explain.one_weight import Product
from aprgraph.runtime.explain.site import Site

#: Of so many wrong experts it is looked for whose matrices they have.
_MOST = 8
_NAMED = 4


@explains("expert_linear", "expert_bias_add")
def another_expert(site: Site) -> Iterator[Alternative]:
    """The matrices are those of the expert behind or before, or of the choices in the reverse order."""
    count = site.operands[2].shape[0]
    for shift, where in ((1, "behind"), (-1, "before")):
        yield Alternative(
            "other-expert", f"the expert {where} the chosen one is used",
            with_operand(site, 1, partial(_shifted, shift, count)),
        )  # fmt: skip
    if site.operands[1].shape[1] > 1:
        words = "experts are used in the reverse order of the choice"
        yield Alternative("other-expert", words, with_operand(site, 1, lambda ids: ids[:, ::-1]))


@explains("expert_linear")
def matrices_of_others(site: Site) -> Iterator[Alternative]:
    """Experts have each other's matrices: which those that are wrong have."""
    x, ids, matrices = site.operands
    if site.recorded is None or np.isnan(ids).any() or not np.isfinite(site.recorded).all():
        return
    inputs = x if x.ndim == 3 else np.repeat(x[:, None], ids.shape[1], axis=1)
    off = np.square(site.recorded - site.due).sum(axis=-1)
    count, wrong = matrices.shape[0], np.unique(ids[off > 1e-6 * off.max()]).astype(np.int64)
    taken = np.arange(count)
    for expert in wrong[:_MOST]:
        pairs = ids == expert
        product = Product(site, 2, inputs[pairs], site.recorded[pairs], site.due[pairs], int(expert))
        other = next((one for one in range(count) if one != expert and _fits(product, matrices, one)), None)
        if other is None:
            return
        taken[expert] = other
    shifts = {int(taken[expert] - expert) % count for expert in wrong[:_MOST]}
    if len(shifts) == 1 and len(wrong) == len(np.unique(ids)) > 1:
        shift = shifts.pop()
        far, where = (shift, "behind") if 2 * shift <= count else (count - shift, "before")
        words = f"the expert {far} {where} the chosen one is used"
        yield Alternative("other-expert", words, with_operand(site, 1, partial(_shifted, shift, count)), SOLVED)
    elif len(wrong) <= _MOST:
        which = [f"expert {expert} has the matrix of expert {taken[expert]}" for expert in wrong]
        words = f"{joined(which[:_NAMED])}{f', and so have {len(which) - _NAMED} more' if len(which) > _NAMED else ''}, in {site.label(2)}"
        yield Alternative("other-expert", words, with_operand(site, 1, partial(_mapped, taken)), SOLVED)


def _fits(product: Product, matrices: Array, expert: int) -> bool:
    rows = product.probes()
    value = product.x @ np.asarray(matrices[expert][rows]).T
    return bool(
        np.square(product.recorded[:, rows] - value).sum() <= 1e-2 * np.square(product.recorded[:, rows] - product.due[:, rows]).sum()
    )


def _shifted(shift: int, count: int, ids: Array) -> Array:
    return np.asarray((ids + shift) % count)


def _mapped(taken: Array, ids: Array) -> Array:
    return np.asarray(taken[ids.astype(np.int64)], np.float64)

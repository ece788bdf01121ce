"""Mistakes of recurrent ops: the state, the order of a convolution's weights, decay and correction of a delta rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.delta_rule import key_heads_of
from aprgraph.runtime.explain.alternative import Alternative, Compute, explains, with_attrs, with_operand
from aprgraph.runtime.explain.half_precision import FORMATS
from aprgraph.runtime.explain.site import Site

#: The place of the rates of decay among the operands of a scan.
_RATES = 6
#: The ops whose state is another thing than what they give.
_RECURRENT = tuple(name for name, op in OPS.items() if op.traits.state is not None and not op.traits.state.is_result)


@explains(*_RECURRENT)
def left_over(site: Site) -> Iterator[Alternative]:
    """The state begins as what an earlier text left, or at zero where there was an earlier pass."""
    state = OPS[site.node.op].traits.state
    assert state is not None

    def of_the_same_text(operands: Sequence[Array]) -> Array:
        _, after = state.advance(operands, site.node.attrs, site.earlier)
        return state.advance(operands, site.node.attrs, after)[0]

    yield Alternative("state-left-over", f"the state of {site.called} begins as the same text leaves it", of_the_same_text)
    if site.earlier is not None:
        words = f"the state of {site.called} begins at zero, without the earlier steps"
        yield Alternative("state-reset", words, lambda operands: state.advance(operands, site.node.attrs, None)[0])


@explains(*_RECURRENT)
def state_otherwise(site: Site) -> Iterator[Alternative]:
    """What earlier steps left in its state is kept in a half precision, or lies there in another order."""
    if site.earlier is None:
        return
    left = {one.words: one for one in site.left_wrong}
    for name, words, change in _changes_of_state(site):
        # What an earlier step began with so, it left otherwise too.
        before = left.pop(words).value if words in left else np.asarray(site.earlier)
        yield _beginning_with(site, name, words, change(before))
    for one in left.values():  # a mistake before this node, which is made in this step too
        yield _beginning_with(site, one.name, one.words, one.value)


def _changes_of_state(site: Site) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    where, state = f"the state of {site.called}", np.asarray(site.earlier)
    for half, rounded in FORMATS:
        yield "state-rounded", f"{where} is kept in {half}", rounded
    if site.node.op == "short_conv":
        zero = np.zeros_like(state[:1])
        yield "state-order", f"{where} has its rows in the other order", lambda rows: rows[::-1]
        yield "state-order", f"{where} has its rows a place late, without the newest", lambda rows: np.concatenate([zero, rows[:-1]])
        yield "state-order", f"{where} has its rows a place early, without the oldest", lambda rows: np.concatenate([rows[1:], zero])
    elif state.ndim == 3 and state.shape[1] == state.shape[2]:
        yield "state-transposed", f"{where} is transposed in each head", lambda heads: heads.swapaxes(1, 2)


def _beginning_with(site: Site, name: str, words: str, earlier: Array) -> Alternative:
    state = OPS[site.node.op].traits.state
    assert state is not None

    def advance(operands: Sequence[Array]) -> tuple[Array, Array]:
        return state.advance(operands, site.node.attrs, earlier)

    return Alternative(name, words, lambda operands: advance(operands)[0], after=lambda operands: advance(operands)[1])


@explains("short_conv")
def convolution(site: Site) -> Iterator[Alternative]:
    """It reads a position late or early, or has its weights in the other order."""

    def late(operands: Sequence[Array]) -> Array:
        x, *weights = operands
        return site.compute([np.concatenate([np.zeros_like(x[:1]), x[:-1]]), *weights])

    def early(operands: Sequence[Array]) -> Array:
        x, *weights = operands
        return site.compute([np.concatenate([x[1:], np.zeros_like(x[:1])]), *weights])

    yield Alternative("conv-shifted", f"{site.called} reads each position a position late", late)
    yield Alternative("conv-shifted", f"{site.called} reads each position a position early", early)
    yield Alternative(
        "conv-reversed", f"{site.called} has its weights in the other order",
        with_operand(site, 1, lambda weight: weight[:, ::-1]),
    )  # fmt: skip
    if len(site.operands) > 2:
        yield Alternative("bias-missing", f"{site.label(2)} is left out", lambda operands: site.compute(operands[:2]))


@explains("delta_rule")
def delta_rule(site: Site) -> Iterator[Alternative]:
    """Decay, correction, the step, or the sharing of keys are otherwise."""
    yield Alternative("delta-decay", "the state does not fade", with_operand(site, 3, np.zeros_like))
    yield Alternative("delta-step", "beta is taken for 1", with_operand(site, 4, np.ones_like))
    yield Alternative("delta-correction", "v is added to the state without taking off what it gives already", _without_correction(site))
    tiled = bool(site.node.attrs.get("tiled", False))
    heads = site.operands[3].shape[1]
    if 1 < site.node.attr_int("key_heads") < heads:
        words = "heads of v share keys as neighbours" if tiled else "heads of v take keys in turn"
        yield Alternative("delta-keys", words, with_attrs(site, tiled=not tiled))
    scale = site.node.attr_float("scale")
    if scale != 1:
        yield Alternative("delta-scale", f"q is not multiplied by its scale, {scale:.6g}", with_attrs(site, scale=1.0))


@explains("ssm_scan")
def shared_groups(site: Site) -> Iterator[Alternative]:
    """Heads take b and c from the groups in turn, in place of neighbours from one."""
    groups, heads = site.node.attr_int("groups"), site.operands[3].shape[1]
    if 1 < groups < heads:
        yield Alternative("groups-in-turn", "heads take b and c from the groups in turn", partial(_in_turn, site, groups, heads))


@explains("ssm_scan")
def rates(site: Site) -> Iterator[Alternative]:
    """Of Mamba: A is taken for its logarithm, read across, or the first row's in all; B is discretised exactly."""
    if len(site.operands) <= _RATES:
        return
    label = site.label(_RATES)
    for name, words, change in (
        ("ssm-rates", f"{label} goes through -exp, as logarithms of rates have to", lambda rates: -np.exp(rates)),
        ("ssm-rates", f"{label} is read as if its columns came one after the other", lambda rates: rates.reshape(rates.shape[::-1]).T),
        ("ssm-rates", f"the first row of {label} is taken for all heads", lambda rates: np.broadcast_to(rates[:1], rates.shape)),
    ):
        yield Alternative(name, words, with_operand(site, _RATES, change))
    yield Alternative("ssm-exact", "b is multiplied by (exp(step · rate) - 1) / rate in place of the step", partial(_exactly, site))


def _exactly(site: Site, operands: Sequence[Array]) -> Array:
    """The scan with a zero-order hold of b."""
    x, b, c, _, step, skip, rates = (np.asarray(one) for one in operands)
    groups, heads = site.node.attr_int("groups"), len(rates)
    writes, reads = (np.repeat(one.reshape(len(x), groups, -1), heads // groups, axis=1) for one in (b, c))
    state = np.zeros_like(rates) if site.earlier is None else np.asarray(site.earlier)[:, :, 0]
    result = np.empty_like(x)
    for position in range(len(x)):
        kept = np.exp(step[position][:, None] * rates)
        state = kept * state + (kept - 1) / rates * writes[position] * x[position][:, None]
        result[position] = (state * reads[position]).sum(axis=1) + skip * x[position]
    return result


def _in_turn(site: Site, groups: int, heads: int, operands: Sequence[Array]) -> Array:
    x, b, c, *others = operands
    own = np.arange(heads) % groups
    b, c = (one.reshape(len(one), groups, -1)[:, own].reshape(len(one), -1) for one in (b, c))
    return site.compute([x, b, c, *others], groups=heads)


def _without_correction(site: Site) -> Compute:
    def compute(operands: Sequence[Array]) -> Array:
        q, k, v, decay, beta = operands
        heads = decay.shape[1]
        own = key_heads_of(heads, site.node.attrs)
        queries, keys = (x.reshape(len(x), site.node.attr_int("key_heads"), -1)[:, own] for x in (q, k))
        values = v.reshape(len(v), heads, -1)
        state = np.zeros((heads, keys.shape[-1], values.shape[-1])) if site.earlier is None else site.earlier
        result = np.empty_like(v)
        for position in range(len(v)):
            added = keys[position][:, :, None] * (values[position] * beta[position][:, None])[:, None, :]
            state = state * np.exp(decay[position])[:, None, None] + added
            result[position] = (state * queries[position][:, :, None]).sum(axis=1).reshape(-1) * site.node.attr_float("scale")
        return result

    return compute

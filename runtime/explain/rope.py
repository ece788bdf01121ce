"""Mistakes of rotary position embeddings: pairs, angles, positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.graph.words import listed, plural
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, Compute, explains, with_attrs, with_operand, with_value
from aprgraph.runtime.explain.half_precision import FORMATS
from aprgraph.runtime.explain.site import Site, compute, slot_of

#: Bases that files and engines take where none is said.
_BASES = (10000.0, 500000.0, 1000000.0)
_SHIFTS = (1, -1, 2)
#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3
_NAMED = 4
#: The stages that RoPE makes of the products of weights, by their slot.
_TURNED = {"attn_q.weight": "q_post_rope", "attn_k.weight": "k_post_rope"}


def _paired(dims: int) -> Mapping[str, str]:
    """What RoPE pairs of the ``dims`` elements of a head that it turns, by pairing."""
    return {"interleaved": "neighbours (2i, 2i + 1)", "halves": f"halves (i, i + {dims // 2})"}


@explains("rope")
def pairs(site: Site) -> Iterator[Alternative]:
    """RoPE pairs other elements of a head."""
    size = site.node.attr_int("head_size")
    dims = site.operands[1].shape[1]
    words = _paired(dims)
    own = str(site.node.attrs["pairing"])
    for pairing in PAIRINGS:
        if pairing != own:
            yield Alternative("rope-pairing", f"RoPE pairs {words[pairing]} in place of {words[own]}", with_attrs(site, pairing=pairing))
    if dims < size:
        yield Alternative(
            "rope-first-elements", f"RoPE turns the last {dims} of {size} elements of a head, in place of the first", _last_elements(site)
        )


@explains("linear")
def rows_in_other_order(site: Site) -> Iterator[Alternative]:
    """The rows of q and k lie in the order of RoPE that pairs other elements: they were not permuted, or were and should not be."""
    graph, columns, turned = site.around.graph, np.arange(site.due.shape[1]), []
    start = 0
    for _, name in site.weight_names():
        stage = _TURNED.get(slot_of(graph[name]))
        turned += [(node, start) for node in graph.with_op("rope") if (node.layer, node.stage) == (site.node.layer, stage)]
        start += int(graph[name].type.dims[0])
    if site.recorded is not None or not turned:
        return
    words = ""
    for node, first in turned:
        heads, size, own = node.attr_int("heads"), node.attr_int("head_size"), node.attr_str("pairing")
        dims = int(graph.operands(node.name)[1].type.dims[1])
        order = np.arange(size)
        order[:dims] = np.arange(dims).reshape((2, dims // 2) if own == "halves" else (dims // 2, 2)).T.reshape(-1)
        columns[first : first + heads * size] = first + (np.arange(heads)[:, None] * size + order).reshape(-1)
        (other,) = (pairing for pairing in PAIRINGS if pairing != own)
        words = f"the rows of q and k lie in the order of RoPE that pairs {_paired(dims)[other]}, and not {_paired(dims)[own]}"
    yield Alternative("rope-rows", words, lambda operands: site.compute(operands)[:, columns])


@explains("rope")
def angles(site: Site) -> Iterator[Alternative]:
    """RoPE turns by other angles than the table's."""
    own = site.node.attrs["pairing"]
    half = site.operands[1].shape[1] // 2

    def table(change: Callable[[Array], Array]) -> Compute:
        return with_operand(site, 1, change)

    def negative(angles: Array) -> Array:
        return np.concatenate([angles[:, :half], -angles[:, half:]], axis=1)

    def twofold(angles: Array) -> Array:
        cos, sin = angles[:, :half], angles[:, half:]
        return np.concatenate([cos * cos - sin * sin, 2 * cos * sin], axis=1)

    yield Alternative("rope-backwards", "RoPE turns by the negative angles", table(negative))
    yield Alternative("rope-twice", "RoPE is applied twice, or turns by twice the angles, which is the same", table(twofold))
    magnitude = float(np.hypot(site.operands[1][0, :half], site.operands[1][0, half:]).mean())
    if abs(magnitude - 1) > _SAME:
        yield Alternative("rope-magnitude", f"cos and sin are taken without the factor {magnitude:.6g}", table(lambda own: own / magnitude))
    for shift, where in ((-1, "behind"), (1, "before")):
        if len(site.operands[1]) > 2:
            words = f"RoPE turns each position by the row of angles {where} its own"
            yield Alternative("rope-row", words, table(partial(np.roll, shift=shift, axis=0)))
    if half > 1:
        kept = half // 2
        yield Alternative("rope-part", f"RoPE turns {kept} of {half} pairs", table(_part_of(half, kept)))
        if own == "halves":  # pairs that lie closer together
            words = f"RoPE turns the first {2 * kept} of {2 * half} elements of a head"
            yield Alternative("rope-part", words, table(partial(_narrower, half, kept)))


@explains("rope")
def half_precision(site: Site) -> Iterator[Alternative]:
    """Its frequencies, its angles, or cos and sin are rounded to a half precision, or all of them, and positions."""
    graph = site.around.graph
    node = graph[site.operand_names[1]]
    if site.recorded is None or node.op != "rope_angles" or len(site.around.positions) != len(site.operands[1]):
        return
    half = site.operands[1].shape[1] // 2
    factors = [site.read(graph[name]) for name in graph.operand_names(node.name)[1:]]
    unit = compute(node, [np.ones(1), *factors], site.around)[0]  # no frequency is above 1, so none is a turn and more
    magnitude, frequencies = float(np.hypot(unit[0], unit[half])), np.arctan2(unit[half:], unit[:half])
    positions = site.around.positions[:, None]
    for name, rounded in FORMATS:
        for what, angles in (
            ("RoPE's frequencies", positions * rounded(frequencies)),
            ("RoPE's angles", rounded(positions * frequencies)),
        ):
            table = magnitude * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
            yield from _if_it_fits(site, f"rope-{name}", f"{what} are rounded to {name}", table)
        yield from _if_it_fits(site, f"rope-{name}", f"cos and sin of RoPE are rounded to {name}", rounded(site.operands[1]))
        angles = rounded(rounded(positions.astype(np.float64)) * rounded(frequencies))
        table = rounded(magnitude * rounded(np.concatenate([np.cos(angles), np.sin(angles)], axis=1)))
        words = f"RoPE's table is computed in {name}: positions, frequencies, angles, cos and sin are rounded"
        yield from _if_it_fits(site, f"rope-{name}", words, table)


def _if_it_fits(site: Site, name: str, words: str, table: Array) -> Iterator[Alternative]:
    one = Alternative(name, words, with_value(site, 1, table))
    if site.fits(one.compute(site.operands)):
        yield one


@explains("rope")
def other_table(site: Site) -> Iterator[Alternative]:
    """The angles of layers of another kind, for another part of a head."""
    graph, width = site.around.graph, site.operands[1].shape[1]
    for node in graph.with_op("rope_angles"):
        values = [site.read(graph[name]) for name in graph.operand_names(node.name)[1:]]
        table = compute(node, [site.around.positions, *values], site.around)
        if width != table.shape[1] <= site.node.attr_int("head_size"):
            words = f"RoPE turns {table.shape[1]} elements of a head by {site.label_of(node)}, in place of {width} by {site.label(1)}"
            yield Alternative("rope-base", words, with_value(site, 1, table))


@explains("rope")
def left_out(site: Site) -> Iterator[Alternative]:
    """The heads go on unturned."""

    def unturned(operands: Sequence[Array]) -> Array:
        still = np.zeros_like(operands[1])
        still[:, : still.shape[1] // 2] = 1.0
        return site.compute([operands[0], still])

    begins_again = len(site.around.positions) == 1 and site.around.positions[0] > 0
    words = "RoPE is left out, or positions begin again at 0, which is the same" if begins_again else "RoPE is left out"
    yield Alternative("rope-left-out", words, unturned)


@explains("rope_angles")
def other_angles(site: Site) -> Iterator[Alternative]:
    """Other positions, another base, another stretch, other factors."""
    node = site.node
    for shift in _SHIFTS:
        where = f"{abs(shift)} further on" if shift > 0 else f"{-shift} before"
        words = f"RoPE counts the positions from one that is {where}"
        first = int(site.around.positions[0]) + shift if len(site.around.positions) > 1 else -1
        yield Alternative("rope-position", words, with_operand(site, 0, partial(np.add, shift)), begins_at=first if first > 0 else None)
    base = node.attr_float("base")
    for other in dict.fromkeys((*_bases_of(site), *_BASES)):
        if other != base:
            yield Alternative("rope-base", f"RoPE's base is {other:g} in place of {base:g}", with_attrs(site, base=other))
    scale, magnitude = node.attr_float("scale"), node.attr_float("magnitude")
    if scale != 1:
        yield Alternative("rope-scaling", "RoPE's angles are not stretched", with_attrs(site, scale=1.0))
        yield Alternative("rope-scaling", "RoPE is not stretched at all", with_attrs(site, scale=1.0, magnitude=1.0))
        yield Alternative("rope-scaling", f"RoPE's angles are stretched at every pair, by {1 / scale:g}", _linear(site, scale))
    if magnitude != 1:
        yield Alternative("rope-magnitude", f"cos and sin are taken without the factor {magnitude:.6g}", with_attrs(site, magnitude=1.0))
    if len(site.operands) > 1:
        yield Alternative("rope-factors", f"RoPE does without its factors, {site.label(1)}", partial(_without_factors, site))
        own = site.around.graph[site.operand_names[1]]
        for weight in site.weights_like(own.name):
            if "rope" in weight.attr_str("tensor"):
                words = f"RoPE takes the factors {site.label_of(weight)} in place of {site.label_of(own)}"
                yield Alternative("rope-factors", words, with_value(site, 1, site.read(weight)))


@explains("rope")
def solved(site: Site) -> Iterator[Alternative]:
    """The angle of each pair at each position, from what went in and what came out; then the base, stretch or shift behind them."""
    x, table = site.operands
    found = _turned(site)
    n, half = len(table), table.shape[1] // 2
    if found is None or n < 2:
        return
    turned, magnitude = found
    due = np.arctan2(table[:, half:], table[:, :half])

    def alternative(name: str, words: str, other: Array) -> list[Alternative]:
        values = magnitude * np.concatenate([np.cos(other), np.sin(other)], axis=1)
        return [Alternative(name, words, with_value(site, 1, values), SOLVED)] if site.fits(site.compute([x, values])) else []

    own = float(np.hypot(table[0, :half], table[0, half:]).mean())
    yield from alternative("rope-magnitude", f"cos and sin are multiplied by {magnitude:.4g} in place of {own:.4g}", due)
    # Pair i turns by f_i from one position to the next, and by as many f_i at the first as that position is.
    step = np.angle(np.exp(1j * (turned[1:] - turned[:-1])).mean(axis=0))
    if (step <= 0).any() or half < 2:
        return
    positions = np.arange(n)[:, None] + round(float(turned[0, -1] / step[-1]))
    first = int(positions[0, 0])
    shift = "" if first == site.around.positions[0] else f" and positions that begin at {first}"
    file_s = np.angle(np.exp(1j * (due[1:] - due[:-1])).mean(axis=0))
    for words, frequencies in _frequencies(step, file_s):
        found_here = alternative("rope-frequencies", f"RoPE turns by {words}{shift}", positions * frequencies)
        begins_at = first if shift and frequencies is file_s else None
        yield from (replace(one, begins_at=begins_at) for one in found_here)
        if found_here:
            return  # what follows says the same frequencies in other words


def _frequencies(found: Array, due: Array) -> Iterator[tuple[str, Array]]:
    """What the frequencies [pairs] that were found may be, in words, the simplest first; ``due`` are the file's."""
    half = len(found)
    exponents = np.arange(half) / half
    yield "the file's frequencies", due
    if half > 2:
        # A small frequency is known less well, by as much as it is smaller.
        slope, offset = np.polyfit(exponents, np.log(found), 1, w=found)
        stretches = [1.0, *(float(f"{math.exp(offset):.{digits}g}") for digits in (2, 4))]
        for stretch in dict.fromkeys(stretches):
            for base in dict.fromkeys(float(f"{math.exp(-slope):.{digits}g}") for digits in (1, 2, 3, 6)):
                words = f"a base of {base:g}" + (f" and frequencies times {stretch:g}" if stretch != 1 else "")
                yield words, stretch * base**-exponents
    with np.errstate(all="ignore"):
        ratio = found / due
    if not (np.isfinite(ratio) & (ratio > 0)).all():
        return  # pairs that stand still, or turn backwards: no frequency is that many times another
    changed = np.flatnonzero(np.abs(ratio - 1) > 10 * _SAME)
    if changed.size and half > 2:
        low, high = float(ratio[changed].min()), float(ratio[changed].max())
        times = f"{low:.4g}" if high - low < 10 * _SAME else f"{low:.4g} to {high:.4g}"
        yield f"frequencies {times} times the file's at {plural(len(changed), 'pair')} {listed(map(int, changed), _NAMED)}", found


def _turned(site: Site) -> tuple[Array, float] | None:
    """By which angle each pair of dimensions was turned at each position [n, dims / 2], and what both were multiplied by."""
    if site.recorded is None:
        return None
    x, table = site.operands
    half = table.shape[1] // 2
    node = site.node
    heads, size, start = node.attr_int("heads"), node.attr_int("head_size"), node.attr_int("start")
    before = x[:, start : start + heads * size].reshape(len(x), heads, size)
    after = site.recorded.reshape(len(x), heads, size)
    neighbours = node.attrs["pairing"] == "interleaved"
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if neighbours else (slice(0, half), slice(half, 2 * half))
    a, b = (part[..., first] + 1j * part[..., second] for part in (before, after))
    with np.errstate(all="ignore"):
        turn = (b * a.conj()).sum(axis=1) / np.square(np.abs(a)).sum(axis=1)
    if not np.isfinite(turn).all():
        return None
    magnitude = float(np.median(np.abs(turn)))
    return (np.angle(turn), magnitude) if magnitude > 0 else None


def _bases_of(site: Site) -> list[float]:
    """The bases of the model's other angles, as of its layers with a window."""
    graph = site.around.graph
    return [node.attr_float("base") for node in graph.with_op(site.node.op) if node.attr_float("base") != site.node.attr_float("base")]


def _without_factors(site: Site, operands: Sequence[Array]) -> Array:
    return site.compute(operands[:1])


def _linear(site: Site, scale: float) -> Compute:
    return lambda operands: site.compute([operands[0] * scale, *operands[1:]], scale=1.0)


def _narrower(half: int, kept: int, own: Array) -> Array:
    """A table of fewer pairs, which lie closer together where these are halves."""
    return np.concatenate([own[:, :kept], own[:, half : half + kept]], axis=1)


def _part_of(half: int, kept: int) -> Callable[[Array], Array]:
    """A table of which the pairs from ``kept`` on do not turn."""

    def still(own: Array) -> Array:
        table = own.copy()
        table[:, kept:half], table[:, half + kept :] = 1.0, 0.0
        return table

    return still


def _last_elements(site: Site) -> Compute:
    size, heads, start = (site.node.attr_int(name) for name in ("head_size", "heads", "start"))

    def compute(operands: Sequence[Array]) -> Array:
        x, table = operands
        dims = table.shape[1]
        ours = x[:, start : start + heads * size].reshape(len(x), heads, size)
        turned = site.compute([np.roll(ours, dims, axis=-1).reshape(len(x), -1), table], start=0)
        return np.roll(turned.reshape(ours.shape), -dims, axis=-1).reshape(len(x), -1)

    return compute

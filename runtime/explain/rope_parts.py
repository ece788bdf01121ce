"""RoPE of another part of each head than the model's: of all of it, of less, of its end; and frequencies of another size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node, renamed
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.rope import has_ramp
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, Compute, explains
from aprgraph.runtime.explain.site import Site, compute, is_left


@explains("rope")
def other_part(site: Site) -> Iterator[Alternative]:
    """RoPE turns another part of each head, or by frequencies that are not of the part's size."""
    size, own = site.node.attr_int("head_size"), site.operands[1].shape[1]
    node = site.around.graph[site.operand_names[1]]
    if site.within is not None or node.op != "rope_angles":
        return
    known = site.recorded is not None
    for dims in dict.fromkeys((size, own, size // 2, size // 4, 3 * size // 4, *_touched(site))):
        if dims % 2 or not 0 < dims <= size:
            continue
        for whole in dict.fromkeys((dims, own, size)):
            table = _table(site, node, dims, whole)
            for is_last in (False, True) if known and dims < size else (False,):
                # The right part; its end in place of its beginning, and the first half of its pairs, are rules of rope.py.
                if table is None or (dims, whole) == (own, own) or (dims, whole, is_last) == (2 * (own // 4), own, False):
                    continue
                turn = partial(_turned, site, table, is_last)
                if not known or _fits_in_a_row(site, table, is_last):
                    words = _words(size, own, dims, whole, is_last)
                    yield Alternative("rope-part", words, turn, 0 if known else GENERAL, together=(words,))


@explains("rope")
def other_place(site: Site) -> Iterator[Alternative]:
    """Where RoPE turns a part of each head, that is put elsewhere, or its pairs are as far apart as those of a whole head."""
    size, own = site.node.attr_int("head_size"), site.operands[1].shape[1]
    if own >= size or site.recorded is None or site.within is not None:
        return
    ways: list[tuple[str, str, Compute]] = [
        ("rope-first-elements", f"the {own} elements that RoPE turns are put behind the other {size - own} of a head", _put_behind(site)),
        (
            "rope-first-elements",
            f"RoPE turns the last {own} of {size} elements of a head, in place of the first, and they are put before the others",
            _taken_from_behind(site),
        ),
    ]
    if site.node.attrs["pairing"] == "halves":
        words = f"RoPE pairs (i, i + {size // 2}), halves of the whole head, and turns {own // 2} of these pairs"
        ways.append(("rope-part", words, _of_whole_heads(site)))
    for name, words, way in ways:
        if site.fits(way(site.operands)):
            yield Alternative(name, words, way)


def _touched(site: Site) -> Iterator[int]:
    """How many elements at the beginning, or the end, of each head are not as they went in."""
    if site.recorded is None:
        return
    differ = (_heads(site, site.recorded) != _heads(site, _taken(site, site.operands[0]))).any(axis=(0, 1))
    touched = np.flatnonzero(differ)
    if touched.size:
        yield int(touched[-1]) + 1
        yield len(differ) - int(touched[0])


def _table(site: Site, node: Node, dims: int, whole: int) -> Array | None:
    """Angles [n, dims] by the frequencies base^(-2i / whole); None where the model has factors, or a ramp, which are of its own size."""
    factors = [site.read(site.around.graph[name]) for name in site.around.graph.operand_names(node.name)[1:]]
    if (factors or has_ramp(node.attrs)) and dims != site.operands[1].shape[1]:
        return None
    base = node.attr_float("base") ** (dims / whole)
    return compute(renamed(node, attrs={**node.attrs, "dims": dims, "base": base}), [site.around.positions, *factors], site.around)


def _words(size: int, own: int, dims: int, whole: int, is_last: bool) -> str:
    if dims == own and not is_last:
        of = "of the whole head" if whole == size else f"of {whole} elements"
        return f"RoPE's frequencies are base^(-2i / {whole}), {of}, in place of base^(-2i / {own}), of the {own} that it turns"
    part = f"all {dims} elements of a head" if dims == size else f"the {'last' if is_last else 'first'} {dims} of {size} elements of a head"
    right = "all" if own == size else f"the first {own}"
    by = "" if whole == dims else f", by the frequencies of {whole}"
    return f"RoPE turns {part}, in place of {right}{by}"


def _taken(site: Site, x: Array) -> Array:
    """The columns of an operand that are turned."""
    start = site.node.attr_int("start")
    return x[:, start : start + site.node.attr_int("heads") * site.node.attr_int("head_size")]


def _heads(site: Site, x: Array) -> Array:
    return x.reshape(len(x), site.node.attr_int("heads"), site.node.attr_int("head_size"))


def _rolled(site: Site, x: Array, by: int) -> Array:
    """The elements of each head of ``x`` further on by so many."""
    return np.roll(_heads(site, x), by, axis=-1).reshape(len(x), -1)


def _fits_in_a_row(site: Site, table: Array, is_last: bool) -> bool:
    """Whether the last row is what was recorded: one row costs little, and its angles are the largest."""
    assert site.recorded is not None
    return is_left(site.recorded[-1:], _turned(site, table[-1:], is_last, [site.operands[0][-1:]]), site.due[-1:])


def _turned(site: Site, table: Array, is_last: bool, operands: Sequence[Array]) -> Array:
    if not is_last:
        return site.compute([operands[0], table])
    dims = table.shape[1]
    return _rolled(site, site.compute([_rolled(site, _taken(site, operands[0]), dims), table], start=0), -dims)


def _put_behind(site: Site) -> Compute:
    return lambda operands: _rolled(site, site.compute(operands), -operands[1].shape[1])


def _taken_from_behind(site: Site) -> Compute:
    def way(operands: Sequence[Array]) -> Array:
        x, table = operands
        return site.compute([_rolled(site, _taken(site, x), table.shape[1]), table], start=0)

    return way


def _of_whole_heads(site: Site) -> Compute:
    """A table of the whole head whose further pairs do not turn."""

    def way(operands: Sequence[Array]) -> Array:
        x, own = operands
        half, whole = own.shape[1] // 2, site.node.attr_int("head_size") // 2
        table = np.concatenate([np.ones((len(own), whole)), np.zeros((len(own), whole))], axis=1)
        table[:, :half], table[:, whole : whole + half] = own[:, :half], own[:, half:]
        return site.compute([x, table])

    return way

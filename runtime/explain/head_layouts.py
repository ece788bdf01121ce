"""Slips of a reshape: heads that were split or merged without a transpose, or by columns that do not belong together.

A value [n, H, D] lies in memory in one order of its axes and is read in another. One of the two is the right order, which leaves ten
mistakes; which of them differ depends on the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import permutations

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import scores_by_layer
from aprgraph.graph.ops.base import integer
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, explains, with_operand
from aprgraph.runtime.explain.site import Site, is_left
from aprgraph.runtime.readings.layout import layout_of

_RIGHT = (0, 1, 2)
_BY_COLUMNS = (0, 2, 1)
_HEADS = ("H", "K")
#: The attribute that says how many heads the first operand of an op has.
_COUNTED = {"rope": "heads", "attn_scores": "heads", "rms_norm": "groups"}


@dataclass(frozen=True)
class Slip:
    """A value [n, heads, D] that ``lies`` in memory in one order of its axes, and is ``read`` in another."""

    lies: tuple[int, ...]
    read: tuple[int, ...]
    letter: str = "H"

    def __call__(self, heads: int, value: Array) -> Array:
        """What is made of ``value`` [n, heads · D]."""
        split = value.reshape(len(value), heads, -1)
        memory = split.transpose(self.lies).reshape([split.shape[axis] for axis in self.read])
        return np.ascontiguousarray(memory.transpose(np.argsort(self.read))).reshape(value.shape)

    @property
    def keeps_rows(self) -> bool:
        """Whether the D elements of each head at each position stay together."""
        return self.lies[-1] == self.read[-1] == len(_RIGHT) - 1

    def words(self, what: str, *, are_many: bool = False) -> str:
        """``attention lies as [H, n, D] and is read as [n, H, D], without a transpose``."""
        if _BY_COLUMNS in (self.lies, self.read):
            verb = "lie" if self.read == _RIGHT else "are taken"
            return f"the columns of {what} {verb} as [D, {self.letter}] in place of [{self.letter}, D]"
        lies, read = ("lie", "are read") if are_many else ("lies", "is read")
        return f"{what} {lies} as {self._named(self.lies)} and {read} as {self._named(self.read)}, without a transpose"

    def words_together(self, *what: str) -> tuple[str, ...]:
        """The same of several values, whose numbers of heads may be others."""
        return tuple(replace(self, letter="heads").words(one, are_many=True) for one in what)

    def _named(self, order: Sequence[int]) -> str:
        letters = ("n", self.letter, "D")
        return f"[{', '.join(letters[axis] for axis in order)}]"


@lru_cache(maxsize=64)
def slips(shape: tuple[int, ...], letter: str) -> tuple[Slip, ...]:
    """All slips that change a value of the ``shape`` [n, heads, D]."""
    places = np.arange(int(np.prod(shape))).reshape(shape[0], -1)
    others = [order for order in permutations(_RIGHT) if order != _RIGHT]
    found: list[Slip] = []
    for side in ([Slip(order, _RIGHT, letter) for order in others], [Slip(_RIGHT, order, letter) for order in others]):
        # Where an axis has one element, its place among the others makes no difference.
        found += {one(shape[1], places).tobytes(): one for one in reversed(side)}.values()
    return tuple(one for one in found if not np.array_equal(one(shape[1], places), places))


@explains(alone=True)
def merged(site: Site) -> Iterator[Alternative]:
    """Heads lie in one order of positions, heads and elements, and go on as if in another: a reshape without a transpose."""
    if site.within is not None or site.due.ndim != 2:
        return
    axes = layout_of(site.around.graph, site.node, site.due.shape).axes
    if len(axes) != len(_RIGHT) or axes[1][0] not in _HEADS:
        return
    letter, heads = axes[1]
    for slip in slips(tuple(size for _, size in axes), letter):
        if site.recorded is None or site.fits(slip(heads, site.due)):
            yield Alternative("heads-reshaped", slip.words(site.called), partial(_behind, site, slip, heads), GENERAL)


def _behind(site: Site, slip: Slip, heads: int, operands: Sequence[Array]) -> Array:
    return slip(heads, site.compute(operands))


@explains("rope", "rms_norm", "attn_scores", "linear", "cache", alone=True)
def split(site: Site) -> Iterator[Alternative]:
    """The heads that it reads are split from a row, or merged into one, without a transpose."""
    if site.within is not None or not site.operands or np.ndim(site.operands[0]) != 2:
        return
    found = _heads_read(site)
    if found is None:
        return
    heads, letter, what = found
    together = _together(site)
    start, width = site.node.attr_int("start", 0), site.operands[0].shape[1]
    if site.node.op == "rope":
        width = heads * site.node.attr_int("head_size")
    shape = (len(site.operands[0]), heads, width // heads)
    for slip in slips(shape, letter):
        change = partial(_of_columns, slice(start, start + width), partial(slip, heads))
        if _fits_in_a_row(site, change) and not (slip.keeps_rows and _is_the_same_behind(site, shape[2])):
            words = slip.words_together(*together)
            yield Alternative("heads-reshaped", slip.words(what), with_operand(site, 0, change), GENERAL, together=words)
        if site.node.op == "rope" and slip.keeps_rows and site.recorded is not None:
            yield from _turned_in_between(site, slip, heads, change)


def _heads_read(site: Site) -> tuple[int, str, str] | None:
    """How many heads the first operand has, their letter, and what words call it; None where it has none."""
    graph = site.around.graph
    own = graph[site.operand_names[0]]
    is_open = own.stage is not None and site.around.value(own.name) is None and len(layout_of(graph, own, site.operands[0].shape).axes) > 2
    what = site.label(0) if is_open else f"what {site.called} reads"  # which a slip right behind it does not tell from one of its own
    if site.node.op == "cache":
        readers = [node for node in graph.users(site.node.name) if "kv_heads" in node.attrs]
        return (integer(readers[0].attrs, "kv_heads"), "K", site.label(0)) if readers else None
    if site.node.op in _COUNTED:
        heads = integer(site.node.attrs, _COUNTED[site.node.op])
        scores = scores_by_layer(graph).get(site.node.layer)
        is_of_keys = scores is not None and heads != scores.attr_int("heads")
        return (heads, "K" if is_of_keys else "H", what) if heads > 1 else None
    axes = layout_of(graph, own, site.operands[0].shape).axes
    return (axes[1][1], axes[1][0], what) if len(axes) == len(_RIGHT) and axes[1][0] in _HEADS else None


def _together(site: Site) -> tuple[str, ...]:
    """Of which values one slip is that of this site's operand: a program splits q, k and v alike."""
    before = site.around.graph[site.operand_names[0]]
    if site.node.op == "cache":
        return ("q, k and v",) if before.op == "columns" else ()
    is_split = site.node.op == "rms_norm" or (site.node.op == "rope" and before.op != "rms_norm")
    return ("q and k", "q, k and v") if is_split else ()


def _is_the_same_behind(site: Site, size: int) -> bool:
    """Whether whole heads may change places before the node as well as behind it, where that is tried too."""
    return site.node.op == "rms_norm" and site.recorded is not None and all(np.size(weight) == size for weight in site.operands[1:])


def _of_columns(columns: slice, change: Callable[[Array], Array], x: Array) -> Array:
    """``x`` with some columns changed."""
    value = np.array(x)
    value[:, columns] = change(value[:, columns])
    return value


def _fits_in_a_row(site: Site, change: Callable[[Array], Array]) -> bool:
    """Whether the node's last row is what was recorded if its first operand is changed so: one row costs little, of a large product too."""
    recorded = site.recorded
    if recorded is None:
        return True
    x, *others = site.operands
    if site.node.op == "rope":
        others = [angles[-1:] for angles in others]
    axis = recorded.ndim - 2
    last, due = np.take(recorded, [-1], axis), np.take(site.due, [-1], axis)
    return is_left(last, site.compute([change(x)[-1:], *others]), due)


def _turned_in_between(site: Site, slip: Slip, heads: int, change: Callable[[Array], Array]) -> Iterator[Alternative]:
    """RoPE of heads that are split by a slip, and merged by the reverse of it: only the angles are then those of others."""
    back = Slip(slip.read, slip.lies, slip.letter)

    def compute(operands: Sequence[Array]) -> Array:
        return back(heads, site.compute([change(operands[0]), *operands[1:]]))

    if site.fits(compute(site.operands)):
        words = f"{slip.words(f'what {site.called} reads')}, and back: a head is turned by the angles of another position"
        yield Alternative("heads-reshaped", words, compute, GENERAL)


@explains("rope", "columns")
def fused(site: Site) -> Iterator[Alternative]:
    """q, k and v are taken as if they lay side by side, where they lie KV group by KV group, or the reverse."""
    graph, scores = site.around.graph, scores_by_layer(site.around.graph).get(site.node.layer)
    if scores is None or site.within is not None or site.node.attr_int("heads", 1) < 1:
        return
    heads, kv_heads = scores.attr_int("heads"), scores.attr_int("kv_heads")
    columns = graph.operands(scores.name)[0].type.dims[1]
    x = site.operands[0]
    if not isinstance(columns, int) or kv_heads < 2 or x.ndim != 2 or x.shape[1] != columns // heads * (heads + 2 * kv_heads):
        return
    places = _grouped(heads // kv_heads, kv_heads, columns // heads)
    ways = (
        ("q, k and v lie side by side, and are read KV group by KV group", places),
        ("q, k and v lie KV group by KV group, and are read as if side by side", np.argsort(places)),
    )
    for words, order in ways:
        change = partial(_taken, order)
        if _fits_in_a_row(site, change):
            yield Alternative("heads-fused", words, with_operand(site, 0, change), GENERAL, together=(words,))


def _taken(order: Array, x: Array) -> Array:
    return x[:, order]


def _grouped(group: int, kv_heads: int, size: int) -> Array:
    """Where columns of q, k and v side by side come from, if they are read as KV groups: each ``group`` heads of q, one of k, one of v."""
    grouped = np.arange(kv_heads * (group + 2) * size).reshape(kv_heads, group + 2, size)
    return np.concatenate([part.reshape(-1) for part in (grouped[:, :group], grouped[:, group], grouped[:, group + 1])])

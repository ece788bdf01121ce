"""Pairing the tensors of two traces: by step, layer and stage, and then by shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import shape_text
from aprgraph.runtime.diff.shapes import ShapedTrace, find_shapes, position_axis
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

__all__ = ["ONLY_A", "ONLY_B", "Pair", "align", "align_shaped", "align_single", "check_tokens", "last_rows"]

#: Why a tensor that one side lacks is not measured.
ONLY_A, ONLY_B = "only A recorded it", "only B recorded it"


@dataclass(frozen=True)
class Pair:
    """One tensor on both sides, or on one.

    ``shape`` is what is compared, None where the two shapes do not fit each other (``mismatch`` says how) or the
    tensor cannot be measured (``missing`` says why). ``structured`` is false where neither side knows the shape, so
    that the tensor is flat; ``position_axis`` is the axis of the positions. ``last_of`` names the side of which the
    last position alone is compared, because the other side holds no more.
    """

    key: Place
    a: TraceEntry | None
    b: TraceEntry | None
    shape: tuple[int, ...] | None = None
    structured: bool = False
    position_axis: int | None = None
    last_of: str | None = None
    mismatch: str | None = None
    missing: str | None = None

    @property
    def entry(self) -> TraceEntry:
        """Either side's entry."""
        entry = self.a or self.b
        assert entry is not None
        return entry

    def load(self, trace_a: Trace, trace_b: Trace) -> tuple[F32, F32]:
        """Both tensors, of ``shape``, memory-mapped where possible. Raises TraceError that names the damaged file."""
        return self._load("a", trace_a.load), self._load("b", trace_b.load)

    def load_unverified(self, trace_a: Trace, trace_b: Trace) -> tuple[F32, F32]:
        """As ``load``, but those that are to be described yet are read by no one before the caller."""
        one, other = (
            trace.load_unverified if entry is not None and trace.is_to_be_described(entry) else trace.load
            for trace, entry in ((trace_a, self.a), (trace_b, self.b))
        )
        return self._load("a", one), self._load("b", other)

    def _load(self, side: str, load: Callable[[TraceEntry], F32]) -> F32:
        entry = self.a if side == "a" else self.b
        assert entry is not None
        assert self.shape is not None
        values = load(entry)
        if self.last_of == side:
            assert self.position_axis is not None
            values = values.take([-1], axis=self.position_axis)
        return values.reshape(self.shape)


def check_tokens(a: Trace, b: Trace) -> None:
    """Raise ComparisonError, naming the first position, if both manifests name tokens (some are of unknown ones) and these differ."""
    if a.info is None or b.info is None or a.info.tokens == b.info.tokens or not (a.info.tokens and b.info.tokens):
        return
    ours, theirs = a.info.tokens, b.info.tokens
    position = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), min(len(ours), len(theirs)))

    def at(tokens: tuple[int, ...]) -> str:
        return f"token {tokens[position]}" if position < len(tokens) else "no token there"

    raise ComparisonError(
        f"{a.directory} and {b.directory} are traces of different tokens: at position {position} (of {len(ours)} and {len(theirs)}) "
        f"the first has {at(ours)}, the second {at(theirs)}; run both on the same ",
        TOKENS,
    )


def align(a: Trace, b: Trace) -> tuple[Pair, ...]:
    """All tensors of both traces, paired, in execution order.

    Raises ComparisonError for traces of different tokens, TraceError that names a damaged file.
    """
    return align_shaped(*find_shapes(a, b))


def align_shaped(a: ShapedTrace, b: ShapedTrace) -> tuple[Pair, ...]:
    """As ``align``, of traces whose shapes have been found."""
    check_tokens(a.trace, b.trace)
    ours = {entry.key: entry for entry in a.trace.entries}
    theirs = {entry.key: entry for entry in b.trace.entries}
    entries = sorted([*ours.values(), *(entry for key, entry in theirs.items() if key not in ours)], key=lambda entry: entry.order)
    parted = _parting_step(a.trace, b.trace)
    return tuple(
        Pair(entry.key, ours.get(entry.key), theirs.get(entry.key), missing="the two texts have parted before this step")
        if parted is not None and entry.step >= parted
        else _pair(entry.key, ours.get(entry.key), theirs.get(entry.key), (entry.key in a.known, entry.key in b.known))
        for entry in entries
    )


def _parting_step(a: Trace, b: Trace) -> int | None:
    """The first step that ran on other tokens on the two sides: behind it, numbers differ because the texts do."""
    ours, theirs = (trace.info.extra.get("generated") if trace.info is not None else None for trace in (a, b))
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return None
    return next((step for step, (x, y) in enumerate(zip(ours, theirs, strict=False), start=1) if x != y), None)


def align_single(a: Trace, b: Trace) -> tuple[Pair, ...]:
    """Pair the one tensor of each side, whatever stage and layer each is. Raises as ``align`` does."""
    check_tokens(a, b)
    ours, theirs = a.entries[0], b.entries[0]
    if ours.key == theirs.key:
        return align(a, b)
    return (_pair(ours.key, ours, theirs, (a.info is not None, b.info is not None)),)


def _pair(key: Place, a: TraceEntry | None, b: TraceEntry | None, known: tuple[bool, bool]) -> Pair:
    if a is None or b is None:
        return Pair(key, a, b, missing=ONLY_B if a is None else ONLY_A)
    for side, entry in (("A", a), ("B", b)):
        if entry.file is None:
            return Pair(key, a, b, missing=f"{side} has statistics only")
    axis = position_axis(key.stage)
    count_a, count_b = math.prod(a.shape), math.prod(b.shape)
    if count_a == count_b:
        if count_a == 0:
            return Pair(key, a, b, missing="it has no elements")
        if all(known) and _without_ones(a.shape) != _without_ones(b.shape):
            return Pair(key, a, b, mismatch=f"A is {_dims(a.shape)}, B is {_dims(b.shape)}")
        shape = a.shape if known[0] else b.shape
        structured = any(known) or not _has_positions(key.stage)
        return Pair(key, a, b, shape, structured, axis if len(shape) > 1 else None)
    for side, whole, whole_known, part, part_known in (("a", a, known[0], b, known[1]), ("b", b, known[1], a, known[0])):
        if whole_known and _is_last_position(whole.shape, part.shape if part_known else None, math.prod(part.shape), axis):
            assert axis is not None
            shape = (*whole.shape[:axis], 1, *whole.shape[axis + 1 :])
            return Pair(key, a, b, shape, True, axis, last_of=side)
    return Pair(key, a, b, mismatch=f"A is {_dims(a.shape)}, B is {_dims(b.shape)}" + _hint(count_a, count_b, known))


def _hint(count_a: int, count_b: int, known: tuple[bool, bool]) -> str:
    small, large = sorted((count_a, count_b))
    if not any(known) and small and large % small == 0:
        return "; one side may hold the last position only, which no manifest confirms"
    return ""


def _is_last_position(whole: tuple[int, ...], part: tuple[int, ...] | None, count: int, axis: int | None) -> bool:
    """Whether ``part`` (None if unknown, of ``count`` elements) can only be the last position of ``whole``."""
    if axis is None or axis >= len(whole) or len(whole) < 2 or whole[axis] < 2:
        return False
    last = (*whole[:axis], 1, *whole[axis + 1 :])
    return math.prod(last) == count > 0 and (part is None or _without_ones(part) == _without_ones(last))


def _has_positions(stage: str) -> bool:
    return stage not in STAGE_BY_NAME or "n" in STAGE_BY_NAME[stage].dims


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dim for dim in shape if dim != 1)


def _dims(shape: tuple[int, ...]) -> str:
    return shape_text(shape) if shape else "a single number"


def last_rows(shaped: ShapedTrace, key: Place, n: int, width: int | None = None) -> F32 | None:
    """The last ``n`` rows of a tensor [rows, width], f32 [n, width]; None where it was not recorded or its shape is not certain.

    ``width`` None takes any. Raises TraceError that names a damaged file.
    """
    trace = shaped.trace
    if key not in trace:
        return None
    entry = trace.get(key.stage, key.layer, key.step)
    if key not in shaped.known or entry.file is None or len(entry.shape) != 2 or entry.shape[0] < n or width not in (None, entry.shape[1]):
        return None
    return trace.load(entry)[-n:]

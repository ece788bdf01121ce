"""What is wrong as rows of a table: tensors of one stage of which the same is to be said are one row, with their layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from aprgraph.graph.message import Message, join_messages
from aprgraph.graph.words import layer_ranges
from aprgraph.runtime.blame.local_errors import Audit, Blame, LocalError, LocalState
from aprgraph.runtime.place import Place

#: What a reason consists of that the columns beside it say already.
_NMSE = re.compile(r"NMSE [0-9.e+-]+, limit [0-9.e+-]+")
_NUMBER = re.compile(r"[0-9][0-9.e+-]*")


@dataclass(frozen=True)
class Group:
    """Tensors of one stage and step, in the order of their layers."""

    keys: tuple[Place, ...]

    @property
    def label(self) -> str:
        """``layer 3 ffn_gate``, or ``ffn_gate, layers 0..29``."""
        first = self.keys[0]
        if len(self.keys) == 1:
            return first.label
        return f"{first._replace(layer=None).label}, {layer_ranges(key.layer for key in self.keys if key.layer is not None)}"


def group_keys(keys: Iterable[Place], gist: Callable[[Place], Hashable]) -> list[Group]:
    """``keys`` by step and stage, in order of first appearance; those of which ``gist`` says another thing stay apart."""
    found: dict[Hashable, list[Place]] = {}
    for key in keys:
        found.setdefault((key.step, key.stage, gist(key)), []).append(key)
    return [Group(tuple(group)) for group in found.values()]


#: Of so many stages it is said how far off they are along their axes.
_AXES_OF = 3


@dataclass(frozen=True)
class WrongRow:
    """One row of what a side is wrong at. ``a`` and ``b`` are the local errors, of several layers the least and the largest;
    ``worst`` names the layer of the largest.
    """

    group: Group
    verdict: str
    a: str
    b: str
    limit: str
    worst: str
    why: str


def wrong_rows(blame: Blame, *, each: bool = False) -> list[WrongRow]:
    """A row for each stage that a side is wrong at, or for ``each`` tensor, in execution order."""

    def gist(key: Place) -> Hashable:
        if each:
            return key
        return (blame.verdicts[key], *(_gist(audit.by_key.get(key)) for audit in (blame.a, blame.b)))

    return [_wrong_row(blame, group) for group in group_keys(blame.wrong, gist)]


def _wrong_row(blame: Blame, group: Group) -> WrongRow:
    sides = [[audit.by_key[key] for key in group.keys if key in audit.by_key] for audit in (blame.a, blame.b)]
    pairs = [(key, local) for key in group.keys if (local := blame.local_of(key)) is not None]
    worst, shown = max(pairs, key=lambda pair: pair[1].excess)
    reasons = [Message(f"{name}: ", why) for name, side in zip("AB", sides, strict=True) if (why := why_of(side, worst))]
    return WrongRow(
        group,
        blame.verdicts[group.keys[0]].value,
        spread(sides[0]),
        spread(sides[1]),
        f"{shown.limit:.0e}",
        f"layer {worst[1]}" if len(group.keys) > 1 else "",
        join_messages("; ", reasons),
    )


@dataclass(frozen=True)
class AuditRow:
    """One row of an audit; as ``WrongRow``. ``is_off``: it is wrong, or of another size than the model's."""

    group: Group
    state: str
    error: str
    limit: str
    worst: str
    sources: str
    why: str
    is_off: bool


def audit_rows(audit: Audit, locals_: Sequence[LocalError], *, each: bool = False) -> list[AuditRow]:
    """A row for each stage of ``locals_``, or for ``each`` tensor, in execution order."""
    by_key = audit.by_key
    groups = group_keys((local.key for local in locals_), lambda key: key if each else (by_key[key].state, _gist(by_key[key])))
    return [_audit_row([by_key[key] for key in group.keys], group) for group in groups]


def _audit_row(locals_: Sequence[LocalError], group: Group) -> AuditRow:
    worst = max(locals_, key=lambda local: local.excess)
    alone = len(locals_) == 1
    sources = [key.label for key in worst.sources] if alone else [key.stage for key in worst.sources]
    return AuditRow(
        group,
        worst.state.value,
        spread(locals_),
        f"{worst.limit:.0e}",
        "" if alone or worst.error is None else f"layer {worst.key.layer}",
        ", ".join(sources),
        why_of(locals_, worst.key),
        worst.state in (LocalState.WRONG, LocalState.SHAPE),
    )


def spread(locals_: Sequence[LocalError]) -> str:
    """The local errors of some tensors: one number, or the least and the largest, of right ones the largest alone."""
    known = [local.error for local in locals_ if local.error is not None]
    if not known:
        return ""
    if not any(local.state is LocalState.WRONG for local in locals_):
        return f"{max(known):.0e}" if max(known) else "0"
    low, high = (f"{error:.1e}" if error else "0" for error in (min(known), max(known)))
    return high if low == high else f"{low}..{high}"


def why_of(locals_: Sequence[LocalError], worst: Place) -> str:
    """Why the tensor ``worst`` has its state, and what the first of the tensors that gives something away by its error does."""
    reason = next((reason_of(local) for local in locals_ if local.key == worst), "")
    telltale = next((local.telltale for local in locals_ if local.telltale is not None), None)
    return join_messages("; ", filter(None, (reason, telltale)))


def reason_of(local: LocalError | None) -> str:
    """Why a tensor has its state, where that is more than its error and limit."""
    reason = (local.reason if local is not None else None) or ""
    return "" if _NMSE.fullmatch(reason) else reason


def _gist(local: LocalError | None) -> Hashable:
    """What is said of a tensor, its numbers aside."""
    return None if local is None else (local.state, local.limit, _NUMBER.sub("#", local.reason or ""))


def first_by_axis(locals_: Iterable[LocalError | None]) -> list[LocalError]:
    """The first wrong tensors of which it is known how far off they are along each of their axes, one of each stage."""
    found: dict[str, LocalError] = {}
    for local in locals_:
        if local is not None and local.state is LocalState.WRONG and local.by_axis:
            found.setdefault(local.key.stage, local)
    return list(found.values())[:_AXES_OF]


def axis_lines(locals_: Iterable[LocalError | None]) -> list[str]:
    """How far off the first wrong tensors are along each of their axes, a line for each."""
    return [f"{local.label}, {'; '.join(axis.words for axis in local.by_axis)}" for local in first_by_axis(locals_)]

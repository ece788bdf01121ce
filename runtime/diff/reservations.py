"""What keeps a verdict from being a plain one: what was not read, what the run cannot show, and where the runs are not of one model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aprgraph.graph.arguments import MODEL
from aprgraph.graph.message import Message
from aprgraph.graph.stage_parts import split_part
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import joined, plural
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import DIVERGED, Class
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.diff.shards import Held, find_shard
from aprgraph.runtime.readings.steps import AT_MASKED
from aprgraph.runtime.trace.reader import Trace

if TYPE_CHECKING:
    from aprgraph.runtime.diff.report import DiffReport, DiffRow

#: Noise of this NMSE is nearly as large as what it is the noise of: what is unrelated gives 2, zeros give 1.
LOUD = 0.3
#: A limit from which on a fault that takes a good part of a tensor away passes for noise.
WIDE = 0.1
#: Between the side and the words of a remark on a tensor that was recorded in another form.
RECORDED = " is recorded "


@dataclass(frozen=True)
class Reservation:
    """``sentence`` without its full stop. ``extent`` is how far "alike" goes (as far as "was read"), None where it is no matter of that.

    ``only_if_alike``: it says nothing of what was found to differ. ``decisive``: so little is left that being alike is no result.
    ``answered_by_replay``: it is no question where each side was replayed by the model of its own. ``is_cause``: it says why they differ.
    """

    sentence: str
    extent: str | None = None
    only_if_alike: bool = False
    decisive: bool = False
    answered_by_replay: bool = False
    is_cause: bool = False


def find_reservations(
    report: DiffReport,
    traces: tuple[Trace, Trace],
    shaped: tuple[ShapedTrace, ShapedTrace],
    pairs: Sequence[Pair],
    graphs: GraphDifferences,
) -> tuple[Reservation, ...]:
    """All of a comparison, the gravest first."""
    names = [report.names.of(side) for side in "AB"]
    compared = report.rows_compared
    found = [
        *(unread_reservation(trace, name, len(compared)) for trace, name in zip(traces, names, strict=True)),
        one_token_reservation(shaped, [row.key.step for row in compared]),
        positions_reservation(pairs, names),
        *shard_reservations(pairs, shaped, names),
        *recording_reservations(compared, names),
        graph_reservation(graphs),
        file_reservation(*traces),
        noise_reservation(compared),
    ]
    return tuple(one for one in found if one is not None)


def unread_reservation(trace: Trace, who: str, compared: int) -> Reservation | None:
    """What was not read where there is no manifest, and files alone say what was recorded; decisive where that is more
    than the ``compared`` tensors. None where all was read. A tensor that was read in one form and is there in another is not missing,
    and what lies beside a manifest is of something else.
    """
    read = {entry.file for entry in trace.entries}
    missing = [one for one in trace.unread if one.suggestion is None or split_part(one.suggestion)[0] not in read]
    if trace.has_manifest or not missing:
        return None
    what = missing[0].kind
    files = f"1 {what} of {who} was not read:" if len(missing) == 1 else f"{len(missing)} {what}s of {who} were not read, the first"
    return Reservation(f"{files} {missing[0].sentence}", "was read", decisive=len(missing) > compared)


def one_token_reservation(shaped: Sequence[ShapedTrace], steps: Sequence[int]) -> Reservation | None:
    """Of a prompt of one token, unless decoded tokens were compared too.

    At position 0 RoPE turns by nothing, nothing is masked, the one weight of a softmax is 1 whatever the scores, and so no head of q
    makes a difference.
    """
    known = [len(side.trace.info.tokens) for side in shaped if side.trace.info is not None and side.trace.info.tokens]
    known = known or [side.positions[0] for side in shaped if 0 in side.positions]
    return one_position(known[0] if known else None, steps)


def one_position(length: int | None, steps: Sequence[int]) -> Reservation | None:
    """The reservation of a prompt of ``length`` tokens, None where that is not known, of which ``steps`` are there."""
    if length != 1 or any(steps):
        return None
    sentence = "a prompt of one token cannot show a fault of RoPE, of masks, of the softmax or of q's heads: use one of six tokens or more"
    return Reservation(sentence, "one token can show", only_if_alike=True)


def positions_reservation(pairs: Sequence[Pair], names: Sequence[str]) -> Reservation | None:
    """Where one side holds the last position alone of so much that fewer than half of the positions of all tensors were compared."""
    there = compared = 0
    sides: set[str] = set()
    for pair in pairs:
        if pair.shape is None or pair.position_axis is None or pair.a is None or pair.b is None:
            continue
        compared += pair.shape[pair.position_axis]
        whole = {"a": pair.a.shape, "b": pair.b.shape}.get(pair.last_of or "", pair.shape)
        there += whole[pair.position_axis]
        if pair.last_of is not None:
            sides.add(names[1 - "ab".index(pair.last_of)])
    if 2 * compared >= there:
        return None
    holders = f"{' and '.join(sorted(sides))} {'hold' if len(sides) > 1 else 'holds'}"
    return Reservation(
        f"{holders} one position alone of most tensors, so that {compared:,} of {there:,} rows were compared: a fault at other "
        "positions may not show",
        "was compared",
        only_if_alike=True,
    )


def noise_reservation(rows: Sequence[DiffRow]) -> Reservation | None:
    """Where the noise is nearly as large as the values, or so much is allowed that a fault may hide in it. Limits set by hand are known."""
    noise = [row for row in rows if row.classification is Class.NOISE and isinstance(row.metrics, TensorMetrics)]
    loud = [row for row in noise if (row.error or 0.0) > LOUD]
    wide = [row for row in noise if row.limit > WIDE and row.override is None]
    if loud:
        worst = max(loud, key=lambda row: row.error or 0.0)
        sentence = Message(
            f"at {_tensors(loud)} the noise that is allowed is nearly as large as the values (NMSE {worst.error:.1g} at {worst.label}), so "
            "that agreement says little there; ",
            MODEL,
            " replays each side by itself",
        )
    elif wide:
        worst = max(wide, key=lambda row: row.limit)
        sentence = Message(
            f"an NMSE of more than {WIDE:g} would pass for noise at {_tensors(wide)} (up to {worst.limit:.1g} at {worst.label}, measured "
            f"{worst.error or 0.0:.1g}), so that a fault can hide there; ",
            MODEL,
            " replays each side by itself, and allows less",
        )
    else:
        return None
    return Reservation(sentence, "so much noise lets show", only_if_alike=True, answered_by_replay=True)


def _tensors(rows: Sequence[DiffRow]) -> str:
    return "1 tensor" if len(rows) == 1 else f"{len(rows)} tensors"


def shard_reservations(pairs: Sequence[Pair], shaped: Sequence[ShapedTrace], names: Sequence[str]) -> Iterator[Reservation]:
    """A side that looks like one rank of a tensor-parallel run, where the other is whole."""
    whole = [pair for pair in pairs if pair.a and pair.b and pair.last_of is None]
    if all(pair.a and pair.b and pair.a.shape == pair.b.shape for pair in whole):
        return  # nobody holds a part
    for side, name in enumerate(names):
        found = find_shard(_held(pair, side, shaped) for pair in whole)
        if found is not None:
            yield Reservation(found.sentence(name))


def _held(pair: Pair, side: int, shaped: Sequence[ShapedTrace]) -> Held:
    """How much of one tensor a side holds, next to the other."""
    entries = pair.a, pair.b
    mine, other = entries[side], entries[1 - side]
    assert mine is not None
    assert other is not None
    axis = 0 if pair.key.stage in STAGE_BY_NAME and STAGE_BY_NAME[pair.key.stage].dims[0] == "H" else -1
    width = other.shape[axis] if pair.key in shaped[1 - side].known and len(other.shape) > 1 else None
    certain = width is not None and pair.key in shaped[side].known and _same_but(mine.shape, other.shape, axis)
    return Held(pair.key.stage, math.prod(mine.shape), math.prod(other.shape), width, certain)


def _same_but(one: tuple[int, ...], other: tuple[int, ...], axis: int) -> bool:
    """Whether two shapes are the same on every axis but one."""
    return len(one) == len(other) and all(a == b for at, (a, b) in enumerate(zip(one, other, strict=True)) if at != axis % len(one))


def recording_reservations(rows: Sequence[DiffRow], names: Sequence[str]) -> Iterator[Reservation]:
    """What a side recorded in another form, by form."""
    groups: dict[str, list[DiffRow]] = {}
    for row in rows:
        if row.classification is Class.OTHER_FORM and row.remark is not None:
            groups.setdefault(row.remark, []).append(row)
    for remark, group in groups.items():
        side, _, words = remark.partition(RECORDED)
        stages = list(dict.fromkeys(row.key.stage for row in group))
        layers = {row.key.layer for row in group if row.key.layer is not None}
        where = joined(stages)
        if len(group) == 1:
            where = group[0].label
        elif layers:
            where += f" of {len(layers)} layers" if len(layers) > 1 else f" of layer {min(layers)}"
        agrees = f"and what is computed from {'it' if len(group) == 1 else 'them'} agrees"
        if words.endswith(AT_MASKED) and any(row.classification in DIVERGED for row in rows):
            agrees = "which is no error"  # it needs nothing to bear it out, and what follows may differ by a fault
        yield Reservation(
            f"this looks like the recording, not the computation: {names['AB'.index(side)]} has {where} recorded {words}, {agrees}"
        )


def graph_reservation(differences: GraphDifferences) -> Reservation | None:
    """Where the graphs in the manifests compute something else: alike or not, the runs are not of one model."""
    if not differences.computed:
        return None
    more = len(differences.computed) - 1
    return Reservation(differences.computed[0].sentence + (f", and in {more} more {plural(more, 'way')}" if more else ""), is_cause=True)


def file_reservation(a: Trace, b: Trace) -> Reservation | None:
    """Traces of different model files, as far as the manifests say."""
    fingerprints = [None if side.info is None else side.info.model.get("fingerprint") for side in (a, b)]
    if None in fingerprints:
        return None
    if fingerprints[0] == fingerprints[1]:
        digests = [side.info.model.get("digest") for side in (a, b) if side.info is not None]
        if None in digests or digests[0] == digests[1]:
            return None
        sentence = "the traces are of different model files, which differ where their common fingerprint does not look"
        return Reservation(sentence, answered_by_replay=True, is_cause=True)
    return Reservation("the traces are of different model files (their fingerprints differ)", answered_by_replay=True, is_cause=True)

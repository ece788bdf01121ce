"""What blame finds: the local error of each tensor of a trace, and the verdicts on two traces."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from aprgraph.graph.export.divergence import CLASS_BY_NAME
from aprgraph.graph.ir import Graph
from aprgraph.graph.shown import Shown, front
from aprgraph.graph.words import joined, listed, shortened
from aprgraph.runtime.blame.suspects import FileSuspect, OtherModel
from aprgraph.runtime.blame.weight_share import OtherWeights
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.prompt import NOT_KNOWN, Prompt
from aprgraph.runtime.diff.report import common_to
from aprgraph.runtime.diff.reservations import Reservation
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.explain.explanation import Explanation
from aprgraph.runtime.explain.extent import AxisErrors
from aprgraph.runtime.frame import frame_of, real
from aprgraph.runtime.place import Place
from aprgraph.runtime.place_names import NAMED, named_stage
from aprgraph.runtime.summary import Summary
from aprgraph.runtime.trace.reader import Trace

FORMAT = "aprgraph-audit"
VERSION = 2


class LocalState(str, Enum):
    """What the replay of one tensor says."""

    RIGHT = "RIGHT"
    WRONG = "WRONG"
    SHAPE = "SHAPE"  # of another size than the model's
    UNKNOWN = "UNKNOWN"  # not recorded, or what it is computed from was not


@dataclass(frozen=True)
class LocalError:
    """What the replay of one tensor, from the inputs that its own trace recorded, leaves unexplained.

    ``metrics`` compare what was recorded (A) with the replay (B). ``sources`` are the recorded tensors that the replay started
    from, ``region`` the graph nodes that it computed, the tensor's own last, ``inside`` the stages among these, ``ops`` what ops these
    are, and ``weights`` the model tensors that it read.
    ``reason`` says why the state is what it is, where that needs words, and ``reading`` how the tensor was recorded, where it is right
    only if it is read so, or wrong by less; ``metrics`` are then those under the reading. ``explanation`` is the mistake under which a
    wrong one fits, ``by_axis`` how far off it is along each of its axes,
    ``twin`` which other stage's values it holds. ``is_open``: it was replayed, but NaN, Inf or the range of numbers leaves open whether
    it is right, so that no elimination tells either; ``overflows`` is the format that the values run out of, where that is why.
    """

    key: Place
    label: str
    state: LocalState
    limit: float
    metrics: TensorMetrics | IndexMetrics | None = None
    sources: tuple[Place, ...] = ()
    region: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    reason: str | None = None
    reading: str | None = None
    explanation: Explanation | None = None
    by_axis: tuple[AxisErrors, ...] = ()
    twin: Place | None = None
    inside: tuple[Place, ...] = ()
    is_open: bool = False
    overflows: str | None = None
    ops: tuple[str, ...] = ()
    either: str | None = None

    @property
    def error(self) -> float | None:
        """The NMSE, or the share of positions with another set of ids."""
        if isinstance(self.metrics, IndexMetrics):
            return self.metrics.share
        return None if self.metrics is None else self.metrics.nmse

    @property
    def telltale(self) -> str | None:
        """What a wrong tensor gives away, in words that follow its label."""
        if self.explanation is not None:
            return f"{self.explanation.sentence}{self._how_to_tell_apart}"
        if self.twin is not None:
            return f"what was recorded is that of {self.twin.in_step_label}"
        extent = [axis.extent for axis in self.by_axis if axis.extent is not None]
        return f"the error is at {joined(extent)} alone; nothing that is known here explains it" if extent else None

    @property
    def cause(self) -> str | None:
        """The mistake that explains a wrong tensor, without how well it fits; None where none does."""
        return None if self.explanation is None else f"{self.explanation.cause}{self._how_to_tell_apart}"

    @property
    def _how_to_tell_apart(self) -> str:
        if self.explanation is None or not self.explanation.others:
            return ""
        apart = listed((place.stage for place in self.inside if place != self.key), NAMED)
        return f"; with {apart} recorded too they may part" if apart else "; of a longer prompt they may part"

    @property
    def excess(self) -> float:
        """The error in terms of its limit; -1 where it is not known."""
        if self.error is None:
            return -1.0
        return self.error / self.limit if self.limit else math.inf if self.error else 0.0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "state": self.state.value,
            "error": self.error,
            "limit": self.limit,
            "region": list(self.region),
            "weights": list(self.weights),
            "sources": [list(key) for key in self.sources],
            "reason": self.reason,
            "overflows": self.overflows,
            "reading": self.reading,
            "telltale": self.telltale,
            "by_axis": [axis.to_json() for axis in self.by_axis],
            "explanation": None if self.explanation is None else self.explanation.to_json(),
            "metrics": None if self.metrics is None else self.metrics.to_json(),
        }


@dataclass(frozen=True)
class Audit(Shown):
    """One trace against the model: a local error for each tensor, in execution order, and the sentence to read first.

    ``as_read`` is the trace as its tensors are to be read, ``moved`` says that some of them are in other places there.
    ``reservations`` are what keeps "right" from being a plain one. ``about`` says in a line what the trace is, by its manifest.

    ``broken`` says which of the model's own weights hold NaN or Inf, if the replay met any. ``suspect`` is what of the model file may be
    at fault in place of the trace, where something is wrong and nobody knows that the trace was computed from that file; ``other_model``
    says so where the trace is of another model altogether.
    """

    trace: str
    model: str
    profile: str
    locals: tuple[LocalError, ...]
    notes: tuple[str, ...] = ()
    sentence: str = ""
    broken: str | None = None
    suspect: FileSuspect | None = None
    other_model: OtherModel | None = None
    as_read: Trace | None = None
    moved: bool = False
    reservations: tuple[Reservation, ...] = ()
    prompt: Prompt = NOT_KNOWN
    about: str = ""

    @property
    def name(self) -> str:
        """What sentences call the trace."""
        return name_of(self.trace)

    @cached_property
    def by_key(self) -> Mapping[Place, LocalError]:
        """The local errors by (step, layer, stage)."""
        return {one.key: one for one in self.locals}

    @property
    def wrong(self) -> tuple[LocalError, ...]:
        """The tensors that the model does not explain, in execution order."""
        return tuple(one for one in self.locals if one.state is LocalState.WRONG)

    @property
    def overflowing(self) -> tuple[LocalError, ...]:
        """The tensors whose values run out of the range of the trace's numbers, in execution order."""
        return tuple(one for one in self.locals if one.overflows is not None)

    @property
    def undecided(self) -> tuple[LocalError, ...]:
        """The tensors that were recorded otherwise or computed otherwise, and nothing tells which, in execution order."""
        return tuple(one for one in self.locals if one.either is not None)

    @property
    def misshapen(self) -> tuple[LocalError, ...]:
        """The tensors of another size than the model's, in execution order."""
        return tuple(one for one in self.locals if one.state is LocalState.SHAPE)

    @property
    def counts(self) -> dict[LocalState, int]:
        """How many tensors are in each state, those without any left out."""
        counted = Counter(one.state for one in self.locals)
        return {state: counted[state] for state in LocalState if counted[state]}

    @property
    def replayed(self) -> int:
        """How many tensors were computed again."""
        return sum(one.state in (LocalState.RIGHT, LocalState.WRONG) for one in self.locals)

    @property
    def exit_code(self) -> int:
        """0 right, 1 wrong, of another shape, or a broken model, 3 nothing could be replayed, or less than went unread.

        (2, could not be audited, is an AprgraphError instead.)
        """
        if self.wrong or self.misshapen or self.broken:
            return 1
        return 3 if not self.replayed or self.is_too_little else 0

    @property
    def is_read_otherwise(self) -> bool:
        """Whether some of it was recorded in another form or in other places."""
        return self.moved or any(one.reading is not None for one in self.locals)

    @property
    def is_too_little(self) -> bool:
        """Whether more of the trace went unread than was replayed, so that being right is no result."""
        return any(one.decisive for one in self.reservations)

    @property
    def summary(self) -> Summary:
        """The verdict in parts."""
        from aprgraph.runtime.blame.summary import summary_of_audit  # noqa: PLC0415 -- which is made of this

        return summary_of_audit(self)

    @property
    def common(self) -> tuple[str, ...]:
        """The nodes and weights that the replays of all wrong tensors read, where there are several of different stages."""
        if len({one.key.stage for one in self.wrong}) < 2:
            return ()
        return common_to([(*one.region, *one.weights) for one in self.wrong])

    def frame(self) -> dict[str, list[Any]]:
        """A row for each tensor, as columns of one length, which pandas and polars take: its state, and what its replay left."""
        return frame_of_locals(self.locals)

    def to_html(self) -> str:
        """The audit as one HTML page that opens offline, as a string."""
        page: str = front().page_of(self)
        return page

    def __repr__(self) -> str:
        return f"<Audit of {self.name}: {shortened(self.sentence)}>"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "trace": self.trace,
            "name": self.name,
            "model": self.model,
            "tokens": list(self.prompt.tokens),
            "text": self.prompt.text,
            "profile": self.profile,
            "sentence": self.sentence,
            "summary": self.summary.to_json(),
            "exit_code": self.exit_code,
            "broken": self.broken,
            "suspect": None if self.suspect is None else self.suspect.to_json(),
            "reservations": [one.sentence for one in self.reservations],
            "notes": list(self.notes),
            "common": list(self.common),
            "tensors": [{**one.key._asdict(), "label": one.label, **one.to_json()} for one in self.locals],
        }


def frame_of_locals(locals_: Sequence[LocalError]) -> dict[str, list[Any]]:
    """A row for each local error; see ``Audit.frame``."""
    return {
        **frame_of([one.key for one in locals_]),
        "state": [one.state.value for one in locals_],
        "local_error": [real(one.error) for one in locals_],
        "limit": [real(one.limit) for one in locals_],
        "replayed_from": [", ".join(source.name for source in one.sources) for one in locals_],
        "telltale": [None if one.telltale is None else str(one.telltale) for one in locals_],
        "reading": [one.reading for one in locals_],
        "reason": [None if one.reason is None else str(one.reason) for one in locals_],
    }


def named(group: Sequence[LocalError]) -> str:
    """Tensors of one step and stage: the label of one, the layers of several."""
    return named_stage([local.key for local in group])


class Verdict(str, Enum):
    """What blame says of one tensor of two traces; ``meaning`` says it in words."""

    A_WRONG = "A WRONG"
    B_WRONG = "B WRONG"
    BOTH_WRONG = "BOTH WRONG"
    RECORDING = "RECORDING"
    OTHER_GRAPH = "OTHER GRAPH"
    OTHER_WEIGHTS = "OTHER WEIGHTS"
    FOLLOWS = "FOLLOWS"
    ADDS_UP = "ADDS UP"
    RIGHT = "RIGHT"
    UNKNOWN = "UNKNOWN"

    @property
    def meaning(self) -> str:
        """What it says, as the table of looks has it."""
        return CLASS_BY_NAME[self.value].summary

    @property
    def is_wrong(self) -> bool:
        """Whether a side is wrong at the tensor."""
        return self in (Verdict.A_WRONG, Verdict.B_WRONG, Verdict.BOTH_WRONG)


@dataclass(frozen=True)
class Blame:
    """Both sides' audits, a verdict on each tensor, and the sentence to read first; ``whose`` is the part of it that says whose fault
    it is, and ``graph`` what A was replayed by.

    ``other_weights`` is what the weights of two models make the sides differ by, None where both were replayed by one.
    """

    a: Audit
    b: Audit
    verdicts: Mapping[Place, Verdict]
    sentence: str
    graph: Graph | None = None
    other_weights: OtherWeights | None = None
    whose: str = ""

    @property
    def wrong(self) -> tuple[Place, ...]:
        """The tensors that a side is wrong at, in execution order."""
        return tuple(key for key, verdict in self.verdicts.items() if verdict.is_wrong)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many tensors have each verdict, those without any left out."""
        counted = Counter(self.verdicts.values())
        return {verdict: counted[verdict] for verdict in Verdict if counted[verdict]}

    @property
    def common(self) -> tuple[str, ...]:
        """The nodes and weights that can explain all that a side is wrong at, of each side that is."""
        return tuple(dict.fromkeys((*self.a.common, *self.b.common)))

    def local_of(self, key: Place) -> LocalError | None:
        """Of both sides' local errors the one that is further off, by its limit: of a wrong side where one is; None if neither is known."""
        found = [audit.by_key[key] for audit in (self.a, self.b) if key in audit.by_key]
        return max(found, key=lambda local: (local.state is LocalState.WRONG, local.excess), default=None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the two replays, each once."""
        return tuple(dict.fromkeys((*self.a.notes, *self.b.notes)))

    def __repr__(self) -> str:
        return f"<Blame: {shortened(self.sentence)}>"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sentence": self.sentence,
            "model": self.a.model,
            "other_weights": None if self.other_weights is None else [share.to_json() for share in self.other_weights.shares],
            "common": list(self.common),
            "counts": {verdict.value: count for verdict, count in self.counts.items()},
            "sides": {
                side: {
                    "model": audit.model,
                    "profile": audit.profile,
                    "replayed": audit.replayed,
                    "wrong": len(audit.wrong),
                    "misshapen": len(audit.misshapen),
                    "suspect": None if audit.suspect is None else audit.suspect.to_json(),
                    "notes": list(audit.notes),
                }
                for side, audit in (("a", self.a), ("b", self.b))
            },
            "tensors": [
                {
                    **key._asdict(),
                    "verdict": verdict.value,
                    "a": self.a.by_key[key].to_json() if key in self.a.by_key else None,
                    "b": self.b.by_key[key].to_json() if key in self.b.by_key else None,
                }
                for key, verdict in self.verdicts.items()
            ],
        }

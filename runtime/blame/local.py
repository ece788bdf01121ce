"""What blame finds: the local error of each tensor of a trace, and the verdicts on two traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import common_to

FORMAT = "aprgraph-audit"
VERSION = 1

#: The largest number of stages that a sentence names.
NAMED = 4


class LocalState(str, Enum):
    """What the replay of one tensor says."""

    RIGHT = "RIGHT"
    WRONG = "WRONG"
    UNKNOWN = "UNKNOWN"  # not recorded, or what it is computed from was not


@dataclass(frozen=True)
class LocalError:
    """What the replay of one tensor, from the inputs that its own trace recorded, leaves unexplained.

    ``metrics`` compare what was recorded (A) with the replay (B). ``sources`` are the recorded tensors that the replay started
    from, ``region`` the graph nodes that it computed, the tensor's own last, and ``weights`` the model tensors that it read.
    ``reason`` says why the state is what it is, where that needs words.
    """

    key: Key
    label: str
    state: LocalState
    limit: float
    metrics: TensorMetrics | IndexMetrics | None = None
    sources: tuple[Key, ...] = ()
    region: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def error(self) -> float | None:
        """The NMSE, or the share of positions with another set of ids."""
        if isinstance(self.metrics, IndexMetrics):
            return self.metrics.share
        return None if self.metrics is None else self.metrics.nmse

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
            "metrics": None if self.metrics is None else self.metrics.to_json(),
        }


@dataclass(frozen=True)
class Audit:
    """One trace against the model: a local error for each tensor, in execution order, and the sentence to read first."""

    trace: str
    model: str
    profile: str
    locals: tuple[LocalError, ...]
    notes: tuple[str, ...] = ()
    sentence: str = ""

    @cached_property
    def by_key(self) -> Mapping[Key, LocalError]:
        """The local errors by (step, layer, stage)."""
        return {one.key: one for one in self.locals}

    @property
    def wrong(self) -> tuple[LocalError, ...]:
        """The tensors that the model does not explain, in execution order."""
        return tuple(one for one in self.locals if one.state is LocalState.WRONG)

    @property
    def replayed(self) -> int:
        """How many tensors were computed again."""
        return sum(one.state is not LocalState.UNKNOWN for one in self.locals)

    @property
    def exit_code(self) -> int:
        """0 right, 1 wrong somewhere, 3 nothing could be replayed. (2, could not be audited, is an AprgraphError instead.)"""
        return 1 if self.wrong else 0 if self.replayed else 3

    @property
    def common(self) -> tuple[str, ...]:
        """The nodes and weights that the replays of all wrong tensors read, where there are several of different stages."""
        if len({one.key[2] for one in self.wrong}) < 2:
            return ()
        return common_to([(*one.region, *one.weights) for one in self.wrong])

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "trace": self.trace,
            "model": self.model,
            "profile": self.profile,
            "sentence": self.sentence,
            "exit_code": self.exit_code,
            "notes": list(self.notes),
            "common": list(self.common),
            "tensors": [
                {"step": one.key[0], "layer": one.key[1], "stage": one.key[2], "label": one.label, **one.to_json()} for one in self.locals
            ],
        }


class Verdict(str, Enum):
    """What blame says of one tensor of two traces."""

    INTRODUCED_BY_A = "INTRODUCED by A"
    INTRODUCED_BY_B = "INTRODUCED by B"
    INTRODUCED_BY_BOTH = "INTRODUCED by both"
    PROPAGATED = "PROPAGATED"  # both sides are right, given their inputs, and an input was wrong
    ACCUMULATED = "ACCUMULATED"  # both sides are right all the way up, and the tensors differ beyond the tolerance
    ALIKE = "ALIKE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Blame:
    """Both sides' audits, a verdict on each tensor, and the sentence to read first."""

    a: Audit
    b: Audit
    verdicts: Mapping[Key, Verdict]
    sentence: str

    @property
    def introduced(self) -> tuple[Key, ...]:
        """The tensors that a side is wrong at, in execution order."""
        guilty = (Verdict.INTRODUCED_BY_A, Verdict.INTRODUCED_BY_B, Verdict.INTRODUCED_BY_BOTH)
        return tuple(key for key, verdict in self.verdicts.items() if verdict in guilty)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the two replays, each once."""
        return tuple(dict.fromkeys((*self.a.notes, *self.b.notes)))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sentence": self.sentence,
            "model": self.a.model,
            "sides": {
                side: {"profile": audit.profile, "replayed": audit.replayed, "wrong": len(audit.wrong), "notes": list(audit.notes)}
                for side, audit in (("a", self.a), ("b", self.b))
            },
            "tensors": [
                {
                    "step": key[0],
                    "layer": key[1],
                    "stage": key[2],
                    "verdict": verdict.value,
                    "a": self.a.by_key[key].to_json() if key in self.a.by_key else None,
                    "b": self.b.by_key[key].to_json() if key in self.b.by_key else None,
                }
                for key, verdict in self.verdicts.items()
            ],
        }

"""The result of a comparison: a sentence first, then the first divergences, then one row per tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aprgraph.graph.message import join_messages
from aprgraph.graph.stages import is_of_text
from aprgraph.graph.words import as_sentence, counted, joined, shortened
from aprgraph.runtime.diff.caveats import by_importance
from aprgraph.runtime.diff.classify import DIVERGED, Class, FirstDivergence
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.logits import LogitMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.prompt import NOT_KNOWN, Prompt
from aprgraph.runtime.diff.reservations import Reservation
from aprgraph.runtime.diff.side_names import SideNames, side_names
from aprgraph.runtime.diff.tolerances import TABLE_VERSION
from aprgraph.runtime.place import Place
from aprgraph.runtime.summary import Summary
from aprgraph.runtime.trace.reader import Trace

FORMAT = "aprgraph-diff"
VERSION = 3


@dataclass(frozen=True)
class DiffRow:
    """One tensor. ``node`` is its name in the trace's graph; ``limit`` what its tolerance is; ``reason`` why it has
    its class, where that needs words. ``metrics`` is None for SHAPE and UNMEASURED, ``logits`` except for logits.
    ``override`` is what set the limit, where that is not the table of tolerances; ``remark`` says how the tensor was compared,
    where that was not element by element.
    """

    key: Place
    label: str
    node: str | None
    classification: Class
    shape: tuple[int, ...] | None
    limit: float
    reason: str | None
    metrics: TensorMetrics | IndexMetrics | None
    logits: LogitMetrics | None
    override: str | None = None
    remark: str | None = None

    @property
    def error(self) -> float | None:
        """How far apart, on the scale of ``limit``: NMSE, or the share of positions with another set of ids that no near-tie explains."""
        if isinstance(self.metrics, IndexMetrics):
            return self.metrics.unexplained_share
        return None if self.metrics is None else self.metrics.nmse

    @property
    def outcome_sentence(self) -> str:
        """What a difference of logits, or of two embeddings of a text, comes to."""
        logits = self.logits
        if logits is None:
            assert isinstance(self.metrics, TensorMetrics)
            if self.metrics.bit_identical:
                return f"{self.label}: the two embeddings are the same, bit for bit"
            cosine = self.metrics.cosine
            known = "no cosine, as one is all zeros or not finite" if cosine is None else f"a cosine of {cosine:.6f} (1 - {1 - cosine:.1e})"
            return f"{self.label}: the two embeddings have {known}"
        best = f"token {logits.argmax_a} on both sides"
        if logits.argmax_a != logits.argmax_b:
            best = f"token {logits.argmax_a} in A, {logits.argmax_b} in B"
        return f"{self.label}: best {best}; {logits.top_overlap} of the best {logits.top} in common; KL {logits.kl_ab:.2e} nats"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **self.key._asdict(),
            "node": self.node,
            "class": self.classification.value,
            "shape": None if self.shape is None else list(self.shape),
            "limit": self.limit,
            "override": self.override,
            "reason": self.reason,
            "remark": self.remark,
            "kind": None if self.metrics is None else "ids" if isinstance(self.metrics, IndexMetrics) else "values",
            "metrics": None if self.metrics is None else self.metrics.to_json(),
            "logits": None if self.logits is None else self.logits.to_json(),
        }


def outcomes(rows: Sequence[DiffRow]) -> list[DiffRow]:
    """What the models are run for: the logits, and the last of the stages of a whole text, its embedding, where values were compared."""
    of_text = [row for row in rows if is_of_text(row.key.stage) and isinstance(row.metrics, TensorMetrics)][-1:]
    return [row for row in rows if row.logits is not None] + of_text


@dataclass(frozen=True)
class DiffReport:
    """Two traces compared. ``rows`` are in execution order; ``first`` are the first divergences, several where they
    stand on parallel branches; ``notes`` are facts about the two traces that a reader should know. ``profile_reason`` says why the
    tolerances are those of ``profile``. ``called`` is what sentences call the sides, where that is not the names of their paths.
    ``reservations`` are what keeps the verdict from being a plain one, the gravest first. ``prompt`` is what both computed on.
    ``traces`` are the two as they were read, which may be other places and forms than those that were recorded.

    Which side is wrong is not known here: see runtime/comparison.
    """

    a: str
    b: str
    profile: str
    rows: tuple[DiffRow, ...]
    first: tuple[FirstDivergence, ...]
    notes: tuple[str, ...]
    profile_reason: str = ""
    called: SideNames | None = None
    reservations: tuple[Reservation, ...] = ()
    traces: tuple[Trace, Trace] | None = field(default=None, repr=False, compare=False)
    prompt: Prompt = NOT_KNOWN

    @cached_property
    def names(self) -> SideNames:
        """What sentences call the two sides."""
        return self.called or side_names(self.a, self.b)

    @property
    def counts(self) -> dict[Class, int]:
        """How many tensors are in each class, those without any left out."""
        counted = Counter(row.classification for row in self.rows)
        return {name: counted[name] for name in Class if counted[name]}

    @property
    def tally(self) -> dict[str, int]:
        """How many tensors are in each class. What tables, page and graph go by."""
        return {name.value: count for name, count in self.counts.items()}

    def word(self, row: DiffRow) -> str:
        """The class of a row."""
        return row.classification.value

    @property
    def compared(self) -> int:
        """How many tensors both sides hold."""
        return len(self.rows) - self.counts.get(Class.UNMEASURED, 0)

    @property
    def diverged(self) -> int:
        """How many tensors differ."""
        return sum(count for name, count in self.counts.items() if name in DIVERGED)

    @property
    def exit_code(self) -> int:
        """0 alike, 1 diverged, 3 nothing was measured, or less than a side has that was not read.

        (2, could not be compared, is an AprgraphError instead.)
        """
        if self.diverged:
            return 1
        return 3 if not self.compared or self.is_too_little else 0

    @property
    def is_too_little(self) -> bool:
        """Whether more of a side went unread than was compared, so that being alike is no result."""
        return any(one.decisive for one in self.reservations)

    @property
    def headline(self) -> str:
        """What to read first."""
        return self.verdict

    @property
    def summary(self) -> Summary:
        """The verdict in parts."""
        from aprgraph.runtime.diff.summary import summary_of_diff  # noqa: PLC0415 -- which is made of this

        return summary_of_diff(self)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, those first that make the verdict less certain."""
        return by_importance(self.notes)

    def row(self, key: Place) -> DiffRow:
        """The row of one tensor, by (step, layer, stage). Raises KeyError."""
        return {row.key: row for row in self.rows}[key]

    def colouring(self, step: int = 0) -> dict[tuple[int | None, str], tuple[str, float | None]]:
        """(layer, stage) -> (word, error) of one step, as the pictures of graphs take it."""
        return {row.key.in_step: (self.word(row), self.error_of(row)) for row in self.rows if row.key.step == step}

    def error_of(self, row: DiffRow) -> float | None:
        """How far the two are apart."""
        return row.error

    @property
    def suspects(self) -> tuple[str, ...]:
        """The nodes and weights that can explain at once all first divergences."""
        return self.common_suspects

    @property
    def verdict(self) -> str:
        """What the comparison says, first of all: alike, as far as that goes, or where the two part; then what else has to be known."""
        is_alike = self.compared > 0 and not self.diverged
        known = [one.sentence for one in self.reservations if is_alike or not one.only_if_alike]
        return join_messages(" ", (self.parting, *map(as_sentence, known)))

    @property
    def parting(self) -> str:
        """The first sentence of the verdict."""
        if not self.compared:
            return as_sentence(f"Nothing was measured: {self._why_nothing()}")
        return as_sentence(self._diverged() if self.diverged else self._alike())

    def _alike(self) -> str:
        extents = list(dict.fromkeys(one.extent for one in self.reservations if one.extent is not None))
        is_part = self._unmeasured > self.compared
        if is_part and "was compared" not in extents and not any(one.decisive for one in self.reservations):
            extents.insert(0, "was compared")
        how_far = f" as far as {joined(extents)}{', which is too little to go by' if self.is_too_little else ''}" if extents else ""
        identical = self.counts.get(Class.IDENTICAL, 0)
        if self.compared == 1:
            tensors = f"{self.rows_compared[0].label} agrees"
        else:
            tensors = f"{self.compared} of {len(self.rows)} tensors agree" if is_part else f"all {self.compared} compared tensors agree"
        detail = "bit for bit" if identical == self.compared else f"within {self.profile}"
        if 0 < identical < self.compared:
            detail += f", {identical} of them bit for bit"
        return f"Alike{how_far}: {tensors} {detail}{self._aside}"

    def _diverged(self) -> str:
        rows = [self.row(first.key) for first in self.first]
        names = joined([f"{row.label} ({row.reason})" for row in rows[:4]] + ([f"{len(rows) - 4} more"] if len(rows) > 4 else []))
        compared = f"{self.compared} tensors" if self.compared > 1 else "1 tensor"
        following = self.diverged - len(rows)
        rest = f", {following} more diverge after" if following else ""
        return f"Diverged: first at {names}; {compared} compared{rest}{self._aside}"

    @property
    def _unmeasured(self) -> int:
        return len(self.rows) - self.compared

    @property
    def _aside(self) -> str:
        return f"; {self._unmeasured} more not measured" if self._unmeasured else ""

    @property
    def rows_compared(self) -> tuple[DiffRow, ...]:
        """The rows that are not UNMEASURED."""
        return tuple(row for row in self.rows if row.classification is not Class.UNMEASURED)

    @property
    def common_suspects(self) -> tuple[str, ...]:
        """The nodes that can explain all of several first divergences at once; empty where there is only one."""
        return common_to([(*first.region, *first.weights) for first in self.first])

    def rows_that_matter(self) -> list[DiffRow]:
        """The first divergences, the nearest measured tensors before and after them, and the outcomes; else the worst five, and these."""
        if not self.first:
            compared = sorted(self.rows_compared, key=lambda row: -((row.error or 0.0) / row.limit if row.limit else 0.0))
            keys = {row.key for row in (*compared[:5], *outcomes(self.rows))}
            return [row for row in self.rows if row.key in keys]
        return self.rows_around(self.first)

    def rows_around(self, firsts: Sequence[FirstDivergence]) -> list[DiffRow]:
        """The first six of ``firsts``, the nearest measured tensors before and after them, and the outcomes."""
        keys = {key for first in firsts[:6] for key in (*first.good[-3:], first.key, *first.following[:3])}
        keys |= {row.key for row in outcomes(self.rows)}
        return [row for row in self.rows if row.key in keys]

    def __repr__(self) -> str:
        return f"<DiffReport of {' and '.join(self.names.both)}: {shortened(self.headline)}>"

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object, free of NaN and Infinity; its form is what ``format`` and ``version`` name."""
        labels = {row.key: row.label for row in self.rows}
        return {
            "format": FORMAT,
            "version": VERSION,
            "a": self.a,
            "b": self.b,
            "name_a": self.names.a,
            "name_b": self.names.b,
            "tokens": list(self.prompt.tokens),
            "text": self.prompt.text,
            "profile": self.profile,
            "profile_reason": self.profile_reason,
            "tolerances": TABLE_VERSION,
            "exit_code": self.exit_code,
            "headline": self.headline,
            "summary": self.summary.to_json(),
            "verdict": self.verdict,
            "reservations": [one.sentence for one in self.reservations],
            "notes": list(self.notes),
            "counts": {name.value: count for name, count in self.counts.items()},
            "first": [
                {
                    **first.key._asdict(),
                    "label": labels[first.key],
                    "region": list(first.region),
                    "weights": list(first.weights),
                    "good": [labels[key] for key in first.good],
                    "following": [labels[key] for key in first.following],
                }
                for first in self.first
            ],
            "common_suspects": list(self.common_suspects),
            "rows": [row.to_json() for row in self.rows],
            "blame": None,
        }

    def _why_nothing(self) -> str:
        reasons = Counter(row.reason for row in self.rows)
        if not reasons:
            return "both traces are empty"
        return "; ".join(f"{reason} ({counted(count, 'tensor')})" for reason, count in reasons.most_common(3))


def common_to(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The names that stand in every one of several groups, in the order of the first; empty where there is only one group."""
    if len(groups) < 2:
        return ()
    others = [set(group) for group in groups[1:]]
    return tuple(name for name in groups[0] if all(name in other for other in others))

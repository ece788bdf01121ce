"""Is a fault found? The checks of the two levels, in both orders of the arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.tap_plan import Plan
from aprgraph.runtime.blame import Audit, Blame, Verdict, audit, judge
from aprgraph.runtime.comparison.with_blame import blame
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.dependencies import Dependencies, from_graph
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace
from tests.zoo.expectation import first_of, guilty, wrong_tensors
from tests.zoo.explained import explained_otherwise
from tests.zoo.planting import Fault, Site
from tests.zoo.runs import Run, run
from tests.zoo.subjects import TOKENS, Subject, recorded

#: A planted value that is no further off than this hides in the noise of float32: then there is nothing to find.
VISIBLE = 1e-9
#: The seed of every faulty run; right ones have others.
_SEED = 1000


@dataclass(frozen=True)
class Finding:
    """What one level said of a case: what it named first, and what is wrong with that; None if it is what was expected."""

    named: tuple[str, ...]
    missed: str | None = None


@dataclass(frozen=True)
class Result:
    """One fault at one place of one family; ``unexplained`` says what is amiss with its explanation, None if nothing is."""

    fault: str
    family: str
    place: str
    values: Finding
    blame: Finding
    unexplained: str | None = None

    @property
    def found(self) -> bool:
        """Whether both levels found it."""
        return self.values.missed is None and self.blame.missed is None

    def __str__(self) -> str:
        return f"{self.fault}, {self.family}, {self.place}: values {self.values.missed or 'found'}; blame {self.blame.missed or 'found'}"


@dataclass(frozen=True)
class Right:
    """A right run with the taps of ``plan``: its trace, and its audit, which is the same in every comparison."""

    run: Run
    plan: Plan

    @property
    def subject(self) -> Subject:
        """The model that was run."""
        return self.run.subject

    @cached_property
    def trace(self) -> Trace:
        """What the run recorded."""
        return self.run.trace("right", self.plan)

    @cached_property
    def audit(self) -> Audit:
        """The trace against the model."""
        return audit(self.trace, self.subject.replayed)

    @cached_property
    def dependencies(self) -> Dependencies:
        """What each tensor of the run is computed from."""
        return from_graph(self.subject.graph, range(self.subject.steps))


def check(fault: Fault, site: Site, right: Right) -> Result:
    """Plant the fault, and compare with the right run.

    Raises AssertionError for a case that is none: a plant that shows nowhere, or a site that declares other stages than follow
    from the graph.
    """
    subject = right.subject
    faulty = run(subject, _SEED, site.plant, site.tokens or TOKENS)
    trace = faulty.trace("faulty", right.plan)
    where = f"{fault.name}, {subject.family}, {site.place}"
    if site.tokens is not None:
        found = _check_refusal(right.trace, trace, subject, site.tokens)
        return Result(fault.name, subject.family, site.place, found, found)
    hidden = [f"step {step} %{name} ({off:.1e})" for (step, name), off in faulty.visible.items() if off < VISIBLE]
    assert faulty.visible, f"{where}: nothing was planted"
    assert not hidden, f"{where}: the fault does not show at {', '.join(hidden)}"
    wrong = wrong_tensors(subject, site.plant, recorded(subject, right.plan))
    if right.plan.everything:
        assert wrong == site.wrong, f"{where}: declared {_keys(site.wrong)}, but by the graph it is {_keys(wrong)}"
    culprits = guilty(subject, site.plant)
    own = audit(trace, subject.replayed)
    orders = (
        (diff(right.trace, trace), right.audit, own, Verdict.B_WRONG),
        (diff(trace, right.trace), own, right.audit, Verdict.A_WRONG),
    )
    values = [_check_values(subject, report, wrong, culprits) for report, *_ in orders]
    blames = [_check_blame(subject, _blame(right, trace, *order), order[-1], wrong, culprits) for order in orders]
    unexplained = explained_otherwise(fault.name, own.wrong)
    return Result(fault.name, subject.family, site.place, _both(values), _both(blames), unexplained)


def _blame(right: Right, faulty: Trace, report: DiffReport, a: Audit, b: Audit, due: Verdict) -> Blame:
    """``blame`` itself where few stages are recorded. It audits both traces again, in each order, so that where all are recorded
    its verdicts are asked for alone, on the audits at hand.
    """
    if not right.plan.everything:
        sides = (right.trace, faulty) if due is Verdict.B_WRONG else (faulty, right.trace)
        return blame(*sides, right.subject.replayed, report)
    return judge(report, a, b, right.dependencies)


def _both(orders: list[Finding]) -> Finding:
    """The finding of the first order; missed if either is."""
    for order, finding in zip(("", "with the sides exchanged: "), orders, strict=True):
        if finding.missed is not None:
            return Finding(orders[0].named, order + finding.missed)
    if orders[0].named != orders[1].named:
        return Finding(orders[0].named, f"the orders differ: {orders[0].named} and {orders[1].named}")
    return orders[0]


def _check_values(subject: Subject, report: DiffReport, wrong: frozenset[Place], culprits: frozenset[str]) -> Finding:
    """The first divergences are the first wrong tensors, and each one's region holds a guilty node."""
    found, due = [first.key for first in report.first], first_of(subject, wrong)
    named = _names(found)
    if frozenset(found) != due:
        return Finding(named, f"first are {_keys(found)}, expected {_keys(due)}")
    for first in report.first:
        # In the region of a later step, names have the step in front.
        if not culprits & {name.rpartition(" ")[2] for name in first.region}:
            return Finding(named, f"the region {first.region} holds none of {sorted(culprits)}")
    return Finding(named)


def _check_blame(subject: Subject, found: Blame, due: Verdict, wrong: frozenset[Place], culprits: frozenset[str]) -> Finding:
    """The faulty side is wrong at the wrong tensors, for a guilty node, and the right side nowhere; the verdicts say so.

    ``due`` is what the verdicts have to be, which says which side is the faulty one.
    """
    right, faulty = (found.a, found.b) if due is Verdict.B_WRONG else (found.b, found.a)
    named = _names(first_of(subject, (local.key for local in faulty.wrong)))
    if right.wrong:
        return Finding(named, f"the right side is called wrong at {_wrong(right)}")
    if {local.key for local in faulty.wrong} != wrong:
        return Finding(named, f"wrong are {_wrong(faulty)}, expected {_keys(wrong)}")
    for local in faulty.wrong:
        if not culprits & {*local.region}:
            return Finding(named, f"the region of {local.label}, {local.region}, holds none of {sorted(culprits)}")
    blamed = set(found.wrong)
    unlike = [
        f"{key} {found.verdicts.get(key)}"
        for key in sorted(blamed | wrong, key=str)
        if key not in wrong or found.verdicts.get(key) is not due
    ]
    if unlike:
        return Finding(named, f"expected {due.value} at {_keys(wrong)}, but it says {', '.join(unlike)}")
    return Finding(named)


def _check_refusal(a: Trace, b: Trace, subject: Subject, tokens: tuple[int, ...]) -> Finding:
    """Traces of other tokens are refused, with the first position at which they differ."""
    position = next(i for i, (x, y) in enumerate(zip(TOKENS, tokens, strict=False)) if x != y)
    for refusal in (_refusal(diff, a, b), _refusal(diff, b, a), _refusal(blame, a, b, subject.model), _refusal(blame, b, a, subject.model)):
        if refusal is None:
            return Finding((), "traces of other tokens were compared")
        if f"position {position} " not in refusal:
            return Finding(("refused",), f"the refusal does not name position {position}: {refusal}")
    return Finding((f"refused: tokens differ at position {position}",))


def _refusal(compare: Callable[..., object], *arguments: object) -> str | None:
    try:
        compare(*arguments)
    except ComparisonError as error:
        return str(error)
    return None


def _wrong(side: Audit) -> str:
    return ", ".join(f"{local.label} ({local.reason})" for local in side.wrong) or "none"


def _names(keys: Iterable[Place]) -> tuple[str, ...]:
    """``step 1 attn_scores``, in order; without layers, which the case names."""
    return tuple(dict.fromkeys(f"step {step} {stage}" if step else stage for step, _, stage in sorted(keys, key=_order)))


def _keys(keys: Iterable[Place]) -> str:
    labels = [TraceEntry(stage, layer, step, (), None).label for step, layer, stage in sorted(keys, key=_order)]
    return ", ".join(labels) or "none"


def _order(key: Place) -> tuple[int, int, str]:
    step, layer, stage = key
    return (step, 1 << 30 if layer is None else layer, stage)

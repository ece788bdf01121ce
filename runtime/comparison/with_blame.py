"""Adds blame to a comparison: both sides are audited, each by its model, compared again as they are to be read, and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from aprgraph.graph.model import Model
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor, Progress
from aprgraph.runtime.blame.beginnings import where_it_begins
from aprgraph.runtime.blame.local_errors import Audit, Blame, LocalError, LocalState
from aprgraph.runtime.blame.model_row_order import in_order_of_model
from aprgraph.runtime.blame.other_places import Hopeless, in_other_places
from aprgraph.runtime.blame.prompt_text import with_text
from aprgraph.runtime.blame.recorded import Beginning, PromptTokens
from aprgraph.runtime.blame.repeated import with_repeats
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.shared_tokens import tokens_of_sides
from aprgraph.runtime.blame.verdict import judge
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.comparison.other_weights import check_comparable, find_other_weights
from aprgraph.runtime.diff.compare import diff
from aprgraph.runtime.diff.dependencies import from_graph
from aprgraph.runtime.diff.graph_differences import compare_graphs
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.repeats import without_repeats
from aprgraph.runtime.trace.reader import Trace


def blame(
    a: Trace,
    b: Trace,
    model: Model | ReplayedModel,
    report: DiffReport | None = None,
    *,
    model_b: Model | ReplayedModel | None = None,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    progress: Progress | None = None,
) -> Blame:
    """Which side of a comparison is wrong, and where. See ``with_blame`` for the arguments and errors."""
    report = report if report is not None else diff(a, b, profile=profile, tolerances=tolerances)
    found = with_blame(report, a, b, model, model_b=model_b, tokens=tokens, profile=profile, tolerances=tolerances, progress=progress).blame
    assert found is not None
    return found


def with_blame(
    report: DiffReport,
    a: Trace,
    b: Trace,
    model: Model | ReplayedModel,
    *,
    model_b: Model | ReplayedModel | None = None,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    top: int = 10,
    progress: Progress | None = None,
    executor: WorkersExecutor | None = None,
) -> Comparison:
    """``report`` of ``a`` and ``b``, and what a replay of each says: which side is wrong, and where.

    ``model`` is that of both, or with ``model_b`` that of A: each side is then replayed by its own, and what the weights of
    the two make the sides differ by is told from what a side does wrong. Where a side was recorded in another form, the two
    are compared once more as they are to be read. ``tokens`` are those of the
    prompt, for traces whose manifests do not name them; ``profile`` is the arithmetic that both are held to (default: as the manifests
    say); ``tolerances`` set limits for some stages and ``top`` is the K of the logits, as for ``diff``. The workers of ``executor`` compute
    what is replayed (default: this process). Raises what ``diff`` and
    ``Auditor`` do, and ComparisonError for models that are not one in two files.
    """
    ours = ReplayedModel.of(model)
    theirs = ours if model_b is None or model_b is model else ReplayedModel.of(model_b)
    has_two = theirs is not ours
    ours.weights.keep_parts = not has_two  # decoded once for both sides
    if has_two:
        check_comparable(ours.model, theirs.model)
    options = AuditOptions(None, profile, tolerances, {row.key.stage for row in report.rows}, executor=executor)
    sides = _Side.of(a, ours, options), _Side.of(b, theirs, options)
    prompts = tokens_of_sides(sides[0].trace, sides[1].trace, tokens, (sides[0].audit_on, sides[1].audit_on))
    sides = sides[0].with_tokens(prompts[0]), sides[1].with_tokens(prompts[1])
    auditors = [side.auditor() for side in sides]
    audits = [side.finish(auditor, found) for side, auditor, found in zip(sides, auditors, _side_by_side(auditors, progress), strict=True)]
    as_read = [audit.as_read or trace for audit, trace in zip(audits, (a, b), strict=True)]
    if as_read != [a, b]:
        again = diff(*as_read, top=top, profile=profile, tolerances=tolerances)
        report = replace(again, a=report.a, b=report.b, called=report.called)
    steps = sorted({row.key.step for row in report.rows})
    graphs = compare_graphs(auditors[0].graph, auditors[1].graph, same_rows=has_two)
    other = find_other_weights(audits, (ours, theirs), prompts[1]) if has_two else None
    if has_two and not any(LocalState.UNKNOWN in audit.counts for audit in audits):
        report = replace(report, reservations=tuple(one for one in report.reservations if not one.answered_by_replay))
    found_blame = judge(report, audits[0], audits[1], from_graph(auditors[0].graph, steps), graphs, other)
    report = replace(report, prompt=with_text(report.prompt, ours.model, tokens))
    return Comparison.of(report, replace(found_blame, graph=auditors[0].graph))


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: its trace with each tensor once, in the model's order of rows, and what was done for that."""

    trace: Trace
    model: ReplayedModel
    options: AuditOptions
    repeated: tuple[Place, ...]
    notes: tuple[str, ...]

    @staticmethod
    def of(trace: Trace, model: ReplayedModel, options: AuditOptions) -> _Side:
        once, repeated = without_repeats(trace, model.graph)
        once, notes = in_order_of_model(once, model)
        return _Side(once, model, options, repeated, notes)

    def with_tokens(self, tokens: PromptTokens) -> _Side:
        return replace(self, options=replace(self.options, tokens=tokens))

    def auditor(self) -> Auditor:
        return Auditor(self.trace, self.model, self.options)

    def audit_on(self, trace: Trace, tokens: PromptTokens) -> Audit:
        """The audit of a part of the trace on other tokens."""
        return Auditor(trace, self.model, replace(self.options, tokens=tokens)).audit()

    def finish(self, auditor: Auditor, found: Sequence[LocalError]) -> Audit:
        """The audit, made of all that the auditor's ``locals`` yielded, of the trace as it is to be read."""
        audit = where_it_begins(auditor.finish(found), self.trace, self._audit_from)
        audit = with_repeats(in_other_places(audit, self.trace, self.model.model.family.layers, self._audit_unless), self.repeated)
        return replace(audit, notes=(*audit.notes, *self.notes))

    def _audit_from(self, beginning: Beginning) -> Audit:
        return Auditor(self.trace, self.model, replace(self.options, beginning=beginning)).audit()

    def _audit_unless(self, trace: Trace, hopeless: Hopeless) -> Audit | None:
        return Auditor(trace, self.model, self.options).audit_unless(hopeless)


def _side_by_side(auditors: Sequence[Auditor], progress: Progress | None) -> tuple[list[LocalError], list[LocalError]]:
    """What the auditors of A and B find, tensor by tensor of both, so that a weight is decoded once for both."""
    found: tuple[list[LocalError], list[LocalError]] = ([], [])
    for pair in zip_longest(*(auditor.locals() for auditor in auditors)):
        for side, local in zip(found, pair, strict=True):
            if local is not None:
                side.append(local)
                if progress is not None:
                    progress(local.label)
    return found

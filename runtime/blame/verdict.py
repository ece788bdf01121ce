"""``blame``: both sides' local errors, and what they say together about each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from aprgraph.graph.model import Model
from aprgraph.runtime.blame.audit import Auditor, Progress
from aprgraph.runtime.blame.broken_model import with_broken_model
from aprgraph.runtime.blame.local import Audit, Blame, LocalError, LocalState, Verdict
from aprgraph.runtime.blame.other_places import in_other_places
from aprgraph.runtime.blame.prompt_text import with_text
from aprgraph.runtime.blame.recorded import PromptTokens
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.sentences import blame_sentence, with_repeats
from aprgraph.runtime.blame.shared_tokens import tokens_of_sides
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.compare import diff
from aprgraph.runtime.diff.dependencies import Dependencies, from_graph
from aprgraph.runtime.diff.graph_differences import GraphDifferences, compare_graphs
from aprgraph.runtime.diff.report import DIVERGED, DiffReport, DiffRow
from aprgraph.runtime.readings.repeats import without_repeats
from aprgraph.runtime.trace.reader import Trace


def blame(
    a: Trace,
    b: Trace,
    model: Model | ReplayedModel,
    report: DiffReport | None = None,
    *,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    progress: Progress | None = None,
) -> Blame:
    """Which side of a comparison is wrong, and where. See ``with_blame`` for the arguments and errors."""
    report = report if report is not None else diff(a, b, profile=profile, tolerances=tolerances)
    found = with_blame(report, a, b, model, tokens=tokens, profile=profile, tolerances=tolerances, progress=progress).blame
    assert found is not None
    return found


def with_blame(
    report: DiffReport,
    a: Trace,
    b: Trace,
    model: Model | ReplayedModel,
    *,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    top: int = 10,
    progress: Progress | None = None,
) -> DiffReport:
    """``report`` of ``a`` and ``b`` with what a replay of each says: which side is wrong, and where.

    Where a side was recorded in another form, the two are compared once more as they are to be read. ``tokens`` are those of the
    prompt, for traces whose manifests do not name them; ``profile`` is the arithmetic that both are held to (default: as the manifests
    say); ``tolerances`` set limits for some stages and ``top`` is the K of the logits, as for ``diff``. Raises what ``diff`` and
    ``Auditor`` do.
    """
    model = ReplayedModel.of(model)  # one for both
    stages = {row.key[2] for row in report.rows}
    once, repeated = zip(*(without_repeats(trace, model.graph_of("last", 1)) for trace in (a, b)), strict=True)

    def audit_again(trace: Trace, prompt: PromptTokens) -> Audit:
        auditor = Auditor(trace, model, tokens=prompt, profile=profile, tolerances=tolerances, stages=stages)
        return auditor.finish(list(auditor.locals()))

    prompts = tokens_of_sides(once[0], once[1], tokens, audit_again)
    auditors = [
        Auditor(trace, model, tokens=prompt, profile=profile, tolerances=tolerances, stages=stages)
        for trace, prompt in zip(once, prompts, strict=True)
    ]
    found: tuple[list[LocalError], list[LocalError]] = ([], [])
    # Side by side, so that a weight is decoded once for both.
    for pair in zip_longest(*(auditor.locals() for auditor in auditors)):
        for side, local in zip(found, pair, strict=True):
            if local is not None:
                side.append(local)
                if progress is not None:
                    progress(local.label)

    layers = model.model.family.layers
    audits = [
        with_repeats(in_other_places(auditor.finish(side), trace, layers, partial(audit_again, prompt=prompt)), several)
        for auditor, side, trace, prompt, several in zip(auditors, found, once, prompts, repeated, strict=True)
    ]
    as_read = [audit.as_read or trace for audit, trace in zip(audits, (a, b), strict=True)]
    if as_read != [a, b]:
        again = diff(*as_read, top=top, profile=profile, tolerances=tolerances)
        report = replace(again, a=report.a, b=report.b, called=report.called)
    steps = sorted({row.key[0] for row in report.rows})
    graphs = compare_graphs(auditors[0].graph, auditors[1].graph)
    found_blame = judge(report, audits[0], audits[1], from_graph(auditors[0].graph, steps), graphs)
    return replace(report, blame=replace(found_blame, graph=auditors[0].graph), prompt=with_text(report.prompt, model.model, tokens))


def judge(report: DiffReport, a: Audit, b: Audit, dependencies: Dependencies, graphs: GraphDifferences | None = None) -> Blame:
    """What a comparison and the audits of its sides say together; ``dependencies`` are those of the model.

    ``graphs`` are the differences of the graphs by which the two were replayed.
    """
    differing = {name for difference in (graphs.computed if graphs is not None else ()) for name in difference.nodes}
    other_graph = {row.key for row in report.rows if any(differing.intersection(_region(audit, row.key)) for audit in (a, b))}
    wrong = {local.key for audit in (a, b) for local in audit.wrong}
    behind = _behind(dependencies, wrong | other_graph)
    behind_unknown = _behind(dependencies, {row.key for row in report.rows if not _right_on_both(row.key, a, b)})
    # Without a measured ancestor nothing says that what both sides are computed from agrees: their tokens may differ.
    grounded = {first.key for first in report.first if first.good}
    verdicts = {}
    for row in report.rows:
        verdict = _verdict(row, a, b, row.key in behind, row.key in behind_unknown, row.key in grounded)
        is_own = verdict is Verdict.ADDS_UP and row.key in other_graph
        verdicts[row.key] = Verdict.OTHER_GRAPH if is_own else verdict
    return Blame(a, b, verdicts, with_broken_model(blame_sentence(report, a, b, verdicts, graphs), a, b))


def _region(audit: Audit, key: Key) -> tuple[str, ...]:
    """The nodes that the replay of a tensor computed."""
    return audit.by_key[key].region if key in audit.by_key else ()


def _verdict(row: DiffRow, a: Audit, b: Audit, behind: bool, behind_unknown: bool, grounded: bool) -> Verdict:
    key, classification = row.key, row.classification
    states = [audit.by_key[key].state if key in audit.by_key else LocalState.UNKNOWN for audit in (a, b)]
    wrong_a, wrong_b = (state is LocalState.WRONG for state in states)
    if wrong_a or wrong_b:
        return Verdict.BOTH_WRONG if wrong_a and wrong_b else Verdict.A_WRONG if wrong_a else Verdict.B_WRONG
    diverged = classification in DIVERGED
    if any(audit.by_key[key].reading is not None for audit in (a, b) if key in audit.by_key):
        return Verdict.RECORDING
    if not diverged:
        return Verdict.UNKNOWN if classification is Class.UNMEASURED and LocalState.RIGHT not in states else Verdict.RIGHT
    if behind:
        return Verdict.FOLLOWS
    if grounded and LocalState.RIGHT in states and LocalState.UNKNOWN in states and classification in (Class.INTRODUCED, Class.NAN):
        # What both are computed from agrees, and one side is right: the other is not.
        return Verdict.B_WRONG if states[0] is LocalState.RIGHT else Verdict.A_WRONG
    return Verdict.UNKNOWN if behind_unknown or LocalState.UNKNOWN in states else Verdict.ADDS_UP


def _right_on_both(key: Key, a: Audit, b: Audit) -> bool:
    return all(key in audit.by_key and audit.by_key[key].state is LocalState.RIGHT for audit in (a, b))


def _behind(dependencies: Dependencies, sources: set[Key]) -> set[Key]:
    """The tensors that are computed from one of ``sources``."""
    values = dependencies.behind({dependencies.value_of[key] for key in sources if key in dependencies.value_of})
    return {key for key, value in dependencies.value_of.items() if value in values}

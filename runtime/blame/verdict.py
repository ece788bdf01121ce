"""Verdicts: which side is wrong at each tensor, by the local errors of both sides."""

from __future__ import annotations

from aprgraph.runtime.blame.broken_model import with_broken_model
from aprgraph.runtime.blame.local_errors import Audit, Blame, LocalState, Verdict
from aprgraph.runtime.blame.weight_share import OtherWeights
from aprgraph.runtime.blame.whose_fault import blame_sentence, whose_fault
from aprgraph.runtime.diff.classify import DIVERGED, Class
from aprgraph.runtime.diff.dependencies import Dependencies
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.place import Place


def judge(
    report: DiffReport,
    a: Audit,
    b: Audit,
    dependencies: Dependencies,
    graphs: GraphDifferences | None = None,
    other_weights: OtherWeights | None = None,
) -> Blame:
    """The verdicts on a comparison, from the audits of its two sides. ``dependencies`` are those of the model.

    ``graphs`` are the differences of the graphs by which the two were replayed, ``other_weights`` those of their models where
    each side was replayed by its own.
    """
    differing = {name for difference in (graphs.computed if graphs is not None else ()) for name in difference.nodes}
    other_graph = {row.key for row in report.rows if any(differing.intersection(_region(audit, row.key)) for audit in (a, b))}
    if other_weights is not None:  # graphs of two files may be put together otherwise and compute the same
        other_graph &= other_weights.differing
    wrong = {local.key for audit in (a, b) for local in audit.wrong}
    behind = _behind(dependencies, wrong | other_graph)
    behind_unknown = _behind(dependencies, {row.key for row in report.rows if not _right_on_both(row.key, a, b)})
    # Without a measured ancestor nothing says that what both sides are computed from agrees: their tokens may differ.
    # Nor does agreement of the inputs accuse a side that may have other weights.
    grounded = {first.key for first in report.first if first.good and other_weights is None}
    by_weights = {share.key for share in other_weights.shares} if other_weights is not None else set()
    by_weights |= _behind(dependencies, by_weights)
    verdicts = {}
    for row in report.rows:
        verdict = _verdict(row, a, b, behind=row.key in behind, behind_unknown=row.key in behind_unknown, grounded=row.key in grounded)
        if verdict is Verdict.ADDS_UP and row.key in other_graph:
            verdict = Verdict.OTHER_GRAPH
        elif verdict is Verdict.ADDS_UP and row.key in by_weights:
            verdict = Verdict.OTHER_WEIGHTS
        verdicts[row.key] = verdict
    whose, needs_verdict = whose_fault(report, a, b, verdicts, graphs)
    sentence = blame_sentence(report, a, b, whose, needs_verdict=needs_verdict, other_weights=other_weights)
    return Blame(a, b, verdicts, with_broken_model(sentence, a, b), other_weights=other_weights, whose=whose)


def _region(audit: Audit, key: Place) -> tuple[str, ...]:
    """The nodes that the replay of a tensor computed."""
    return audit.by_key[key].region if key in audit.by_key else ()


def _verdict(row: DiffRow, a: Audit, b: Audit, *, behind: bool, behind_unknown: bool, grounded: bool) -> Verdict:
    """The verdict on one tensor: ``behind`` something wrong, or something of which not both sides are known to be right, and whether
    what it is computed from is known to agree (``grounded``).
    """
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
    is_open = any(audit.by_key[key].is_open for audit in (a, b) if key in audit.by_key)
    if (
        grounded
        and not is_open
        and LocalState.RIGHT in states
        and LocalState.UNKNOWN in states
        and classification in (Class.INTRODUCED, Class.NAN)
    ):
        # What both are computed from agrees, and one side is right: the other is not.
        return Verdict.B_WRONG if states[0] is LocalState.RIGHT else Verdict.A_WRONG
    return Verdict.UNKNOWN if behind_unknown or LocalState.UNKNOWN in states else Verdict.ADDS_UP


def _right_on_both(key: Place, a: Audit, b: Audit) -> bool:
    return all(key in audit.by_key and audit.by_key[key].state is LocalState.RIGHT for audit in (a, b))


def _behind(dependencies: Dependencies, sources: set[Place]) -> set[Place]:
    """The tensors that are computed from one of ``sources``."""
    values = dependencies.behind({dependencies.value_of[key] for key in sources if key in dependencies.value_of})
    return {key for key, value in dependencies.value_of.items() if value in values}

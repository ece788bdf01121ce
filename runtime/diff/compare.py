"""``diff``: open, align, measure, classify, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.blas_threads import one_blas_thread
from aprgraph.graph.errors import ComparisonError
from aprgraph.runtime.diff.align import Pair, align_shaped, align_single
from aprgraph.runtime.diff.caveats import Aside, Caveat
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.graph_differences import graph_differences
from aprgraph.runtime.diff.measure import Measured
from aprgraph.runtime.diff.moved import in_other_places
from aprgraph.runtime.diff.notes import differences, remarks, unreached
from aprgraph.runtime.diff.other_prompt import prompt_reservation
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.pair_rules import PairRules, Progress
from aprgraph.runtime.diff.profiles import choose_profile, kept_in
from aprgraph.runtime.diff.prompt import prompt_of
from aprgraph.runtime.diff.repeated import heads_once
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.diff.reservations import Reservation, find_reservations
from aprgraph.runtime.diff.row_orders import in_one_row_order
from aprgraph.runtime.diff.shapes import find_shapes
from aprgraph.runtime.diff.side_names import name_of, side_names
from aprgraph.runtime.diff.sources import Source, is_file, open_pair, path_of
from aprgraph.runtime.diff.tolerances import check_profile
from aprgraph.runtime.trace.reader import Trace


@one_blas_thread()  # of sums over values in memory a second thread has nothing but the waiting
def diff(
    a: Source,
    b: Source,
    *,
    top: int = 10,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    progress: Progress | None = None,
    forks: bool = False,
) -> DiffReport:
    """Compare two traces: directories (with or without a manifest), two APRT files, open traces, or arrays by their names.

    ``top`` is the K of the top-K overlap of logits; ``profile`` names a column of the tolerance table (None: the one that
    fits what the manifests say); ``tolerances`` set limits for some stages, as ``--tol`` does: ``ffn_.*=nmse:1e-6``. The verdict
    does not depend on which trace comes first. ``forks`` says that this process may be forked: large tensors are then measured by
    several processes (graph/forks.py).

    Raises ComparisonError for what cannot be compared (different tokens, a file against a directory, an unknown
    profile, a tolerance for a stage that is not there), TraceError for what cannot be read, naming the file.
    """
    if profile is not None:
        check_profile(profile)
    if top < 1:
        raise ComparisonError(f"top is {top}, expected at least 1")
    trace_a, trace_b = open_pair(a, b)
    asked = _Asked((str(path_of(a)), str(path_of(b))), is_file(a), top, profile, tuple(tolerances), forks)
    report = _compare(trace_a, trace_b, asked, progress)
    if asked.single or not report.diverged:
        return report
    return in_other_places(report, (trace_a, trace_b), lambda one, other: _compare(one, other, asked))


@dataclass(frozen=True)
class _Asked:
    """What a comparison was asked for: see ``diff``. ``names`` are what the sides were named by; ``single`` says that each is one file, and
    ``forks`` that large tensors may be measured by forks of this process.
    """

    names: tuple[str, str]
    single: bool
    top: int
    profile: str | None
    tolerances: tuple[str, ...]
    forks: bool


def _compare(trace_a: Trace, trace_b: Trace, asked: _Asked, progress: Progress | None = None) -> DiffReport:
    """Compare two open traces, each KV head once and with the rows of q and k in one order."""
    repeated: tuple[Reservation, ...] = ()
    names = side_names(*asked.names)
    if not asked.single:
        trace_a, trace_b, repeated = heads_once(trace_a, trace_b, names)
    rows_of_qk = in_one_row_order(trace_a, trace_b, names)
    traces = trace_a, trace_b = rows_of_qk.a, rows_of_qk.b
    kept = (None, None) if asked.profile is not None else (kept_in(trace_a), kept_in(trace_b))
    formats = (kept[0].format if kept[0] else None, kept[1].format if kept[1] else None)
    profile, why = (asked.profile, "as asked for") if asked.profile is not None else choose_profile(trace_a.info, trace_b.info, formats)
    shaped = find_shapes(*traces)
    graphs = graph_differences(*traces)
    notes = [*rows_of_qk.notes, *differences(*traces, graphs)]
    pairs = align_single(*traces) if asked.single else align_shaped(*shaped)
    if asked.single and trace_a.entries[0].key != trace_b.entries[0].key:
        labels = trace_a.entries[0].label, trace_b.entries[0].label
        notes.append(f"A is {labels[0]} and B is {labels[1]}; compared all the same, since the two files were named")
    rules = PairRules(traces, shaped, pairs, profile, formats, asked.tolerances, asked.top)
    if rules.weights is not None:
        notes.append(rules.weights.note)
    judged, grown = rules.judge(rules.measure(progress, forks=asked.forks))
    classes, first = rules.classify(judged)
    judged = rules.with_exchanges(judged, first)
    rows = tuple(_row(pair, judged[pair.key], classes[pair.key], rules.limits) for pair in pairs)
    notes += grown
    notes += [Caveat(one.describe(name_of(str(trace.directory)))) for trace, one in zip(traces, kept, strict=True) if one is not None]
    notes += [Aside(f"tolerances of {profile}: {why}"), *remarks(pairs, rows, shaped), *unreached(*traces)]
    prompt = prompt_of((trace_a.info, trace_b.info))
    report = DiffReport(*asked.names, profile, rows, first, tuple(notes), profile_reason=why, prompt=prompt, traces=traces)
    other_prompt = None if asked.single else prompt_reservation(report, shaped, pairs)
    found = find_reservations(report, traces, shaped, pairs, graphs)
    return replace(report, reservations=(*repeated, *(() if other_prompt is None else (other_prompt,)), *found))


def _row(pair: Pair, one: Measured, classification: Class, limits: Tolerances) -> DiffRow:
    override = limits.override(pair.key.stage)
    return DiffRow(
        key=pair.key,
        label=pair.entry.label,
        node=pair.entry.node,
        classification=classification,
        shape=pair.shape,
        limit=one.limit,
        reason=one.reason,
        metrics=one.metrics,
        logits=one.logits,
        override=None if override is None else override.text,
        remark=one.remark,
    )

"""``diff``: open, align, measure, classify, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aprgraph.graph.blas_threads import one_blas_thread
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.forks import in_forks
from aprgraph.runtime.diff.align import Pair, align_shaped, align_single
from aprgraph.runtime.diff.caveats import Aside, Caveat
from aprgraph.runtime.diff.classify import Finding, classify, computed_from_identical
from aprgraph.runtime.diff.dependencies import find_dependencies
from aprgraph.runtime.diff.exchanged import with_exchanges
from aprgraph.runtime.diff.flipped import set_aside
from aprgraph.runtime.diff.graph_differences import graph_differences
from aprgraph.runtime.diff.grown_noise import GROWS_IN, GrownNoise
from aprgraph.runtime.diff.inputs import HELD_TO_INPUTS, InputsRule, gain_of
from aprgraph.runtime.diff.measure import Measured, Measurer, held_to_its_own
from aprgraph.runtime.diff.moved import in_other_places
from aprgraph.runtime.diff.notes import differences, remarks, unreached
from aprgraph.runtime.diff.other_prompt import prompt_reservation
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.profiles import QUANT_VS_FLOAT, arithmetic_profiles, choose_profile, kept_in, states_float_weights
from aprgraph.runtime.diff.prompt import prompt_of
from aprgraph.runtime.diff.recorded_otherwise import OtherForms
from aprgraph.runtime.diff.repeated import heads_once
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.diff.reservations import Reservation, find_reservations
from aprgraph.runtime.diff.row_orders import in_one_row_order
from aprgraph.runtime.diff.shapes import find_shapes
from aprgraph.runtime.diff.side_names import name_of, side_names
from aprgraph.runtime.diff.sources import Source, is_file, open_pair, path_of
from aprgraph.runtime.diff.tolerances import check_profile
from aprgraph.runtime.diff.weight_noise import WeightNoise, find_weight_noise
from aprgraph.runtime.trace.reader import Trace

#: Called before each tensor: how many are done, of how many, and what this one is called.
Progress = Callable[[int, int, str], None]

#: Elements of one side from which on forks measure tensors, which take a twentieth of a second to be there.
_LARGE = 1 << 25


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
    """Compare two open traces, each KV head once."""
    repeated: tuple[Reservation, ...] = ()
    if not asked.single:
        trace_a, trace_b, repeated = heads_once(trace_a, trace_b, side_names(*asked.names))
    rows_of_qk = in_one_row_order(trace_a, trace_b, side_names(*asked.names))
    trace_a, trace_b = rows_of_qk.a, rows_of_qk.b
    profile = asked.profile
    kept = (None, None) if profile is not None else (kept_in(trace_a), kept_in(trace_b))
    formats = (kept[0].format if kept[0] else None, kept[1].format if kept[1] else None)
    profile, why = (profile, "as asked for") if profile is not None else choose_profile(trace_a.info, trace_b.info, formats)
    shaped_a, shaped_b = find_shapes(trace_a, trace_b)
    graphs = graph_differences(trace_a, trace_b)
    notes = [*rows_of_qk.notes, *differences(trace_a, trace_b, graphs)]
    if asked.single:
        pairs = align_single(trace_a, trace_b)
        if trace_a.entries[0].key != trace_b.entries[0].key:
            labels = trace_a.entries[0].label, trace_b.entries[0].label
            notes.append(f"A is {labels[0]} and B is {labels[1]}; compared all the same, since the two files were named")
    else:
        pairs = align_shaped(shaped_a, shaped_b)
    limits = Tolerances(profile, asked.tolerances, (entry.stage for trace in (trace_a, trace_b) for entry in trace.entries))
    dependencies = find_dependencies(trace_a, trace_b, [pair.key for pair in pairs])
    arithmetics = arithmetic_profiles((trace_a.info, trace_b.info), formats)
    weights: WeightNoise | None = None
    if profile == QUANT_VS_FLOAT:
        weights = find_weight_noise(trace_a, trace_b, dependencies, [states_float_weights(trace.info) for trace in (trace_a, trace_b)])
        notes.append(weights.note)
    measurer = Measurer(
        shaped_a, shaped_b, limits, asked.top, None if weights is None else partial(weights.tolerance, arithmetics=arithmetics)
    )
    measured = {}
    # Limits of weights may decode some, which is done in threads already.
    results = _measured(measurer, pairs, forks=asked.forks and weights is None)
    for done, pair in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs), pair.entry.label)
        measured[pair.key] = next(results)
    strict = computed_from_identical({key: one.state for key, one in measured.items()}, dependencies)
    if weights is not None:
        strict = {key for key in strict if gain_of(key.stage) is None}  # what their weights cost is for the rule of inputs
    judged = {
        pair.key: held_to_its_own(measured[pair.key], measurer.tolerance(pair)) if pair.key in strict else measured[pair.key]
        for pair in pairs
    }
    if profile in HELD_TO_INPUTS:
        judged = InputsRule(dependencies, arithmetics, weights).hold(judged, limits)
    if profile in GROWS_IN:
        judged, grown = GrownNoise(profile, (trace_a, trace_b), pairs, dependencies, limits).settle(judged)
        notes += grown
    judged = set_aside(judged, pairs, dependencies, measurer)
    judged = OtherForms((trace_a, trace_b), pairs, dependencies, measurer).settle(judged)
    classes, first = classify({key: Finding(one.state, one.nmse, one.beyond_inputs) for key, one in judged.items()}, dependencies)
    judged = with_exchanges(judged, [one.key for one in first], pairs, (trace_a, trace_b), measurer)
    rows = []
    for pair in pairs:
        one, override = judged[pair.key], limits.override(pair.key.stage)
        rows.append(
            DiffRow(
                key=pair.key,
                label=pair.entry.label,
                node=pair.entry.node,
                classification=classes[pair.key],
                shape=pair.shape,
                limit=one.limit,
                reason=one.reason,
                metrics=one.metrics,
                logits=one.logits,
                override=None if override is None else override.text,
                remark=one.remark,
            )
        )
    notes += [
        Caveat(one.describe(name_of(str(trace.directory)))) for trace, one in zip((trace_a, trace_b), kept, strict=True) if one is not None
    ]
    notes += [Aside(f"tolerances of {profile}: {why}"), *remarks(pairs, rows, (shaped_a, shaped_b)), *unreached(trace_a, trace_b)]
    prompt = prompt_of((trace_a.info, trace_b.info))
    report = DiffReport(
        *asked.names, profile, tuple(rows), first, tuple(notes), profile_reason=why, prompt=prompt, traces=(trace_a, trace_b)
    )
    other_prompt = None if asked.single else prompt_reservation(report, (shaped_a, shaped_b), pairs)
    found = find_reservations(report, (trace_a, trace_b), (shaped_a, shaped_b), pairs, graphs)
    return replace(report, reservations=(*repeated, *(() if other_prompt is None else (other_prompt,)), *found))


def _measured(measurer: Measurer, pairs: Sequence[Pair], *, forks: bool) -> Iterator[Measured]:
    """What is measured of each pair, of large ones by several processes if ``forks`` allows that: threads would take longer than one does,
    since each waits for Python's lock many times a millisecond.
    """
    if not forks or sum(math.prod(pair.shape or ()) for pair in pairs) <= _LARGE:
        yield from map(measurer.measure, pairs)
        return
    for pair, one in zip(pairs, in_forks(measurer.measure, pairs), strict=True):
        if one.metrics is not None:
            measurer.note_described(pair)
        yield one

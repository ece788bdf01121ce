"""``diff``: open, align, measure, classify, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.diff.align import Pair, align, align_single, differences
from aprgraph.runtime.diff.classify import Finding, State, classify, computed_from_identical
from aprgraph.runtime.diff.dependencies import find_dependencies
from aprgraph.runtime.diff.indices import IndexMetrics, compare_indices
from aprgraph.runtime.diff.logits import LogitMetrics, compare_logits
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.diff.sources import Source, is_file, open_pair
from aprgraph.runtime.diff.tolerances import DEFAULT_PROFILE, Tolerance, check_profile, exceeds, find_tolerance, kind_of
from aprgraph.runtime.trace import Trace

#: Called before each tensor: how many are done, of how many, and what this one is called.
Progress = Callable[[int, int, str], None]


def diff(a: Source, b: Source, *, top: int = 10, profile: str = DEFAULT_PROFILE, progress: Progress | None = None) -> DiffReport:
    """Compare two traces: directories (with or without a manifest), two APRT files, or open traces.

    ``top`` is the K of the top-K overlap of logits; ``profile`` names a column of the tolerance table. The verdict
    does not depend on which trace comes first.

    Raises ComparisonError for what cannot be compared (different tokens, a file against a directory, an unknown
    profile), TraceError for what cannot be read, naming the file.
    """
    check_profile(profile)
    if top < 1:
        raise ComparisonError(f"top is {top}, expected at least 1")
    trace_a, trace_b = open_pair(a, b)
    notes = list(differences(trace_a, trace_b))
    if is_file(a):
        pairs = align_single(trace_a, trace_b)
        if trace_a.entries[0].key != trace_b.entries[0].key:
            labels = trace_a.entries[0].label, trace_b.entries[0].label
            notes.append(f"A is {labels[0]} and B is {labels[1]}; compared all the same, since the two files were named")
    else:
        pairs = align(trace_a, trace_b)
    measured = []
    for done, pair in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs), pair.entry.label)
        measured.append(_measure(pair, trace_a, trace_b, find_tolerance(profile, pair.key[2]), top))
    states = {pair.key: one.state for pair, one in zip(pairs, measured, strict=True)}
    dependencies = find_dependencies(trace_a, trace_b, states)
    strict = computed_from_identical(states, dependencies)
    judged = [
        _held_to_its_own(one, find_tolerance(profile, key[2])) if key in strict else one for key, one in zip(states, measured, strict=True)
    ]
    findings = {key: Finding(one.state, one.nmse) for key, one in zip(states, judged, strict=True)}
    classes, first = classify(findings, dependencies)
    rows = tuple(
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
        )
        for pair, one in zip(pairs, judged, strict=True)
    )
    return DiffReport(_name(a), _name(b), profile, rows, first, (*notes, *_remarks(pairs, rows)))


@dataclass(frozen=True)
class _Measured:
    """One pair: its state by itself, why in words, the limit that it was held to, and its numbers."""

    state: State
    limit: float
    reason: str | None = None
    metrics: TensorMetrics | IndexMetrics | None = None
    logits: LogitMetrics | None = None

    @property
    def nmse(self) -> float | None:
        return self.metrics.nmse if isinstance(self.metrics, TensorMetrics) else None


def _held_to_its_own(one: _Measured, tolerance: Tolerance) -> _Measured:
    """``one`` under the limit of its own arithmetic, since nothing else explains a difference."""
    assert one.metrics is not None
    reason = exceeds(one.metrics, tolerance.own)
    if reason is None:
        return replace(one, limit=tolerance.own)
    return replace(one, state=State.EXCEEDS, limit=tolerance.own, reason=f"{reason} where all inputs are identical")


def _measure(pair: Pair, a: Trace, b: Trace, tolerance: Tolerance, top: int) -> _Measured:
    """Read and measure one pair. Raises TraceError that names a damaged file."""
    limit = tolerance.limit
    if pair.missing is not None:
        return _Measured(State.UNMEASURED, limit, pair.missing)
    if pair.mismatch is not None:
        return _Measured(State.SHAPE, limit, pair.mismatch)
    left, right = pair.load(a, b)
    if kind_of(pair.key[2]) is StageKind.INDEX:
        ids = compare_indices(left, right, structured=pair.structured)
        if ids is None:
            return _Measured(State.UNMEASURED, limit, "the ids stand in another order, and no manifest says how many belong to a position")
        reason = exceeds(ids, limit)
        return _Measured(_state(ids.bit_identical, reason), limit, reason, ids)
    metrics = compare_tensors(left, right, structured=pair.structured, position_axis=pair.position_axis)
    logits = compare_logits(left, right, top) if pair.key[2] == "lm_head" else None
    if metrics.mismatched_nonfinite:
        return _Measured(State.NAN, limit, _nonfinite(metrics), metrics, logits)
    reason = exceeds(metrics, limit)
    return _Measured(_state(metrics.bit_identical, reason), limit, reason, metrics, logits)


def _state(bit_identical: bool, reason: str | None) -> State:
    if bit_identical:
        return State.IDENTICAL
    return State.NOISE if reason is None else State.EXCEEDS


def _nonfinite(metrics: TensorMetrics) -> str:
    sides = ((metrics.nan_a, metrics.inf_a), (metrics.nan_b, metrics.inf_b))
    a, b = (" and ".join(f"{count} {what}" for count, what in zip(side, ("NaN", "Inf"), strict=True) if count) or "none" for side in sides)
    return f"{a} in A, {b} in B" if a != b else f"{a} on each side, at different places"


def _name(side: Source) -> str:
    return str(side.directory if isinstance(side, Trace) else side)


def _remarks(pairs: tuple[Pair, ...], rows: tuple[DiffRow, ...]) -> Iterator[str]:
    """What the comparison came across that a reader should know."""
    for side in ("a", "b"):
        labels = [pair.entry.label for pair in pairs if pair.last_of == side]
        if labels:
            other = "B" if side == "a" else "A"
            names = ", ".join(labels[:4]) + (" and more" if len(labels) > 4 else "")
            yield f"{other} holds the last position only, which is what is compared, for {names}"
    for row in rows:
        if isinstance(row.metrics, IndexMetrics) and row.metrics.reordered:
            where = f"{row.label}: the same ids in another order at {row.metrics.reordered} positions"
            yield f"{where}; tensors of chosen experts are compared slot by slot"
    both = [row for row in rows if isinstance(row.metrics, TensorMetrics) and _nonfinite_on_both(row.metrics)]
    if both:
        yield f"both sides hold NaN or Inf, first in {both[0].label}"
    if rows and all(row.classification.value == "SHAPE" for row in rows):
        yield "no shape fits: traces of different models, or of a different number of tokens?"


def _nonfinite_on_both(metrics: TensorMetrics) -> bool:
    return bool((metrics.nan_a or metrics.inf_a) and (metrics.nan_b or metrics.inf_b))

"""What a reader of a comparison should know beside its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aprgraph.graph.arguments import JSON, NAMES
from aprgraph.graph.message import Message
from aprgraph.graph.ops import weights_of
from aprgraph.graph.ops.attention import is_chunked, reach_of, scores_by_layer
from aprgraph.graph.words import counted, layer_ranges, listed
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.caveats import Aside, Caveat
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.indices import ChoiceState, IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.one_position import other_positions
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.element import first_in_words
from aprgraph.runtime.place_names import named_together
from aprgraph.runtime.trace.reader import Trace

#: The largest number of tensors that a note names.
NAMED = 4
#: LongRoPE's factors up to the original context.
_SHORT_FACTORS = "rope_factors_short.weight"


def differences(a: Trace, b: Trace, graphs: GraphDifferences) -> Iterator[str]:
    """What the manifests say about the two runs that differs, in sentences; such traces are comparable all the same."""
    for side, trace in (("A", a), ("B", b)):
        yield from as_opened(trace, side)
        if trace.info is None:
            yield Caveat(f"{side} has no manifest: its tokens are not known, and its shapes only where they are certain")
        elif not trace.has_manifest:
            arrays = [one for one in trace.unread if one.kind == "array"]
            if arrays:
                yield Caveat(f"{counted(len(arrays), 'array')} of {side} without a place; give places with ", NAMES)
        elif trace.unread:
            files = "1 file" if len(trace.unread) == 1 else f"{len(trace.unread)} files"
            yield Caveat(f"{files} beside the manifest of {side} not read, the first {trace.unread[0].sentence}")
        if (fault := trace.why_no_graph()) is not None:
            yield Caveat(f"the graph in the manifest of {side} does not hold together here, and is not used: {fault}")
    if a.info is None or b.info is None:
        return
    if a.info.target != b.info.target:
        yield Aside(f"the targets differ: {a.info.target} in A, {b.info.target} in B")
    # The first stands in the verdict.
    yield from (Caveat(difference.sentence) for difference in graphs.computed[1:NAMED])
    if len(graphs.computed) > NAMED:
        yield Caveat("the graphs differ at further nodes")
    if graphs.formats_sentence is not None:
        yield graphs.formats_sentence


def as_opened(trace: Trace, who: str) -> Iterator[str]:
    """How arrays were read that could be read otherwise, and which are not compared because whoever opened the trace left them out."""
    yield from (Caveat(f"{who}: {sentence}") for sentence in trace.read_as)
    if trace.regrouped is not None:
        yield Aside(f"{who}: {trace.regrouped}")
    if trace.left_out:
        yield Caveat(
            f"{counted(len(trace.left_out), 'array')} of {who} left out, as asked for by ", NAMES, f": {listed(trace.left_out, NAMED)}"
        )


def unreached(a: Trace, b: Trace) -> Iterator[str]:
    """What is in the graph of a run that is too short to show it."""
    for trace in (a, b):
        graph = trace.graph()
        if graph is None or trace.info is None or not trace.info.tokens:
            continue
        positions = len(trace.info.tokens) + max((entry.step for entry in trace.entries), default=0)
        narrow = {layer: node.attr_int("window") for layer, node in scores_by_layer(graph).items() if reach_of(node.attrs) >= positions}
        if beyond := sorted(set(narrow.values())):
            layers = layer_ranges(layer for layer in narrow if layer is not None)
            what = "chunk" if any(is_chunked(node.attrs) for node in scores_by_layer(graph).values()) else "sliding window"
            yield Caveat(
                f"the {what} of {' and '.join(map(str, beyond))} positions ({layers}) was not exercised: the run has {positions}, "
                "and up to that many a wrong window shows nowhere"
            )
        if any(weight.attr_str("tensor") == _SHORT_FACTORS for weight in weights_of(graph)):
            yield Caveat(
                "LongRoPE's long factors were not exercised: the run stays within the original context, where the short ones are used"
            )
        return  # the two are runs of one model


def remarks(pairs: Sequence[Pair], rows: Sequence[DiffRow], shaped: tuple[ShapedTrace, ShapedTrace]) -> Iterator[str]:
    """What the comparison came across."""
    for side in ("a", "b"):
        labels = [pair.entry.label for pair in pairs if pair.last_of == side]
        if labels:
            holder = "B" if side == "a" else "A"
            yield Caveat(f"{holder} holds one position only, which is taken for the last and is what is compared, for {_named(labels)}")
    yield from other_positions(pairs, rows, (shaped[0].trace, shaped[1].trace))
    yield from _layers(shaped)
    yield from _uncertain_shapes(pairs, shaped)
    overridden = {row.override: 0 for row in rows if row.override is not None}
    for row in rows:
        if row.override is not None:
            overridden[row.override] += 1
    yield from (Aside(f"limits marked * ({counted(count, 'tensor')}) are set by {text!r}") for text, count in overridden.items())
    yield from _choices(rows)
    # Other forms of recording stand in the verdict.
    remarked: dict[str, list[DiffRow]] = {}
    for row in rows:
        if row.remark is not None and row.classification is not Class.OTHER_FORM:
            remarked.setdefault(row.remark, []).append(row)
    yield from (f"{named_together(row.key for row in group)}: {remark}" for remark, group in list(remarked.items())[:NAMED])
    rest = sum(len(group) for group in list(remarked.values())[NAMED:])
    if rest:
        yield Message(
            f"{counted(rest, 'more tensor')} {'was' if rest == 1 else 'were'} compared in part, or by expert; ", JSON, " says how"
        )
    both = [(row, row.metrics) for row in rows if isinstance(row.metrics, TensorMetrics) and _nonfinite_on_both(row.metrics)]
    if both:
        row, metrics = both[0]
        yield f"both sides hold NaN or Inf, first in {row.label}{first_in_words(row.key.stage, metrics.nonfinite_index, ' at ')}"
    if rows and all(row.classification.value == "SHAPE" for row in rows):
        yield Caveat("no shape fits: traces of different models, or of a different number of tokens?" + _counts(shaped))


def _layers(shaped: tuple[ShapedTrace, ShapedTrace]) -> Iterator[str]:
    """A side with fewer layers, in one sentence instead of a row for each of their stages."""
    a, b = ({entry.layer for entry in side.trace.entries if entry.layer is not None} for side in shaped)
    for name, mine, other, theirs in (("A", a, "B", b), ("B", b, "A", a)):
        if mine and theirs - mine:
            missing = layer_ranges(theirs - mine)
            are = "is" if len(theirs - mine) == 1 else "are"
            yield Caveat(
                f"{name} has {layer_ranges(mine)} of the {len(theirs | mine)} recorded; {missing}, which {other} has, {are} not compared"
            )


def _uncertain_shapes(pairs: Sequence[Pair], shaped: tuple[ShapedTrace, ShapedTrace]) -> Iterator[str]:
    """Which tensors are compared as a whole only, since neither side tells positions from channels."""
    flat = [pair.entry.label for pair in pairs if pair.shape is not None and not pair.structured]
    if flat and not any(side.has_manifest for side in shaped):
        yield Caveat(
            f"no manifest tells the shapes, nor does attn_softmax, of {_named(flat)}: compared as a whole, not by position and channel, "
            "so that a fault in few of them can be missed"
        )


def _choices(rows: Sequence[DiffRow]) -> Iterator[str]:
    """Experts in another order, and other experts at near-ties."""
    ids = [(row, row.metrics) for row in rows if isinstance(row.metrics, IndexMetrics)]
    for row, metrics in ids:
        if metrics.reordered:
            yield f"{row.label}: the same ids in another order at {metrics.reordered} positions"
    near = [(row, metrics) for row, metrics in ids if metrics.near_ties]
    for row, metrics in near[:NAMED]:
        first = next((choice for choice in metrics.choices if choice.state is ChoiceState.NEAR_TIE), None)
        example = "" if first is None else f": {first.describe()}"
        yield f"{row.label}: near-tie at {metrics.near_ties} of {metrics.positions} positions{example}"
    if len(near) > NAMED:
        yield f"near-ties in {len(near) - NAMED} more layers"
    unjudged = {row.label: metrics.chosen_by for row, metrics in ids if metrics.differing and not metrics.judged}
    if unjudged:
        stages = ", ".join(dict.fromkeys(unjudged.values()))
        yield Caveat(f"whether other experts were chosen at near-ties is not known for {_named(list(unjudged))}: tap {stages}")


def _counts(shaped: tuple[ShapedTrace, ShapedTrace]) -> str:
    a, b = (side.positions.get(0) for side in shaped)
    return f" A holds {a} positions, B {b}." if a is not None and b is not None and a != b else ""


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels[:NAMED]) + (" and more" if len(labels) > NAMED else "")


def _nonfinite_on_both(metrics: TensorMetrics) -> bool:
    return bool((metrics.nan_a or metrics.inf_a) and (metrics.nan_b or metrics.inf_b))

"""Two models in one comparison: what their weights make the sides differ by.

Each stage of B is computed once more by A's model, from what B recorded of its inputs. How far B is from that is what the weights of
the stage make, for B is right by its own; how far A is from it came with the inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, weights_of
from aprgraph.graph.passes.replay_recorded import find_origins
from aprgraph.graph.sources.source import Source as FileSource
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.blame.recorded import PromptTokens, Recorded, RecordedTensor, tokens_of
from aprgraph.runtime.blame.replay import Replay, Replayer, as_recorded_type
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.weight_share import HeldWeight, OtherWeights, WeightShare
from aprgraph.runtime.comparison.file_differences import with_file_differences
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.diff.shapes import position_axis
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Reading, TraceAsRead
from aprgraph.runtime.readings.layout import is_turned
from aprgraph.runtime.readings.row_order import order_of_graph, rows_of
from aprgraph.runtime.readings.steps import row_order
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.weights.own_order import RowAlignment

#: How many times B's own local error its distance from A's model has to be, where that error is beyond the limit and excused.
_BEYOND_OWN = 2.0
#: The largest number of tensors of one stage whose shares are told apart: each takes another replay of it.
_MOST_APART = 16
#: Tensors that RoPE's order of rows moves.
_TURNED = re.compile(r"attn_(q|k|qkv)[._]")


def check_comparable(a: Model, b: Model) -> None:
    """Raise ComparisonError for files of two models: of two architectures, or of other numbers of layers or hidden sizes."""
    ours, theirs = _described(a), _described(b)
    if ours != theirs:
        raise ComparisonError(
            f"{a.path} is {ours} and {b.path} is {theirs}: the stages of one are not those of the other; give two files of one model"
        )


def _described(model: Model) -> str:
    family = model.family
    return f"{family.architecture!r} with {family.layers} layers of {family.hidden}"


def find_other_weights(audits: Sequence[Audit], models: Sequence[ReplayedModel], prompt: PromptTokens) -> OtherWeights:
    """What the weights of A's and B's model make the sides differ by, at the stages where both are right, each by its own model.

    ``audits`` are those of A and B; ``prompt`` are B's tokens. Raises what ``Auditor`` does.
    """
    crossed = _Crossed(audits, models, prompt)
    shares = list(crossed.shares())
    files = [model.model.file for model in models]
    weighted = with_file_differences([share for share in shares if share.weights], files[0], files[1])
    return OtherWeights(weighted, frozenset(share.key for share in shares))


class _Crossed:
    """B's trace, replayed by A's model."""

    def __init__(self, audits: Sequence[Audit], models: Sequence[ReplayedModel], prompt: PromptTokens) -> None:
        self._audits, (ours, theirs) = audits, models
        self._ours, self._theirs = ours, theirs
        self._theirs_by_tensor = {weight.attr_str("tensor"): weight for weight in weights_of(theirs.graph)}
        self._alignment = RowAlignment(ours.model.file.metadata, theirs.model.file.metadata)
        self._same_rows = order_of_graph(ours.graph) == order_of_graph(theirs.graph)
        a, b = (audit.as_read for audit in audits)
        assert a is not None
        assert b is not None
        self._a = a
        auditor = Auditor(_in_rows_of(ours, theirs, b, prompt), ours, AuditOptions(prompt, audits[1].profile))
        self._replayer, self._recorded = auditor.replayer, auditor.recorded
        self._held: dict[str, HeldWeight | None] = {}

    def shares(self) -> Iterator[WeightShare]:
        """The stages at which B is further from A's model than its own errors, in execution order; some read no weight that differs."""
        last = max(self._recorded.steps, default=-1)
        states: dict[str, Array] = {}
        lost: frozenset[str] = frozenset()
        for step in self._recorded.passes():
            tensors = self._recorded.of_step(step)
            replay = self._replayer.replay(step, states, lost, keep_states=step < last)
            outputs = frozenset(replay.graph.outputs)
            for node, value in self._replayer.run(replay, states):
                tensor = tensors.get(node.name)
                if tensor is not None and node.name in outputs:
                    share = self._share(tensor, as_recorded_type(value, tensor), replay)
                    if share is not None:
                        yield share
            lost |= self._replayer.lost(replay)

    def _share(self, tensor: RecordedTensor, by_a: F32, replay: Replay) -> WeightShare | None:
        """What B recorded of a stage against A's model; None where the two models agree there, or a side is not right by its own."""
        key, stage = tensor.entry.key, tensor.node.stage or ""
        local = self._right(key)
        if local is None or kind_of(stage) is StageKind.INDEX:
            return None
        recorded, ours = self._recorded.load(tensor), self._recorded_by_a(key, by_a)
        if ours is None:
            return None
        axis = position_axis(stage)
        by_weights, from_inputs, total = (
            compare_tensors(one, other, position_axis=axis) for one, other in ((recorded, by_a), (by_a, ours), (recorded, ours))
        )
        numbers = by_weights.nmse, from_inputs.nmse, total.nmse
        if None in numbers or by_weights.mismatched_nonfinite:  # NaN and Inf are no share
            return None
        made, inherited, whole = (number or 0.0 for number in numbers)
        if made <= max(local.limit, _BEYOND_OWN * (local.error or 0.0)):
            return None
        names = [replay.graph[name].attr_str("tensor") for name in find_origins(replay.graph, tensor.node.name, replay.order).weights]
        held = [weight for name in names if (weight := self._held_otherwise(name)) is not None]
        if len(held) == 1:
            held = [replace(held[0], error=made)]
        elif len(held) <= _MOST_APART:
            held = [replace(weight, error=self._of_one(weight.name, tensor, by_a, replay)) for weight in held]
        held.sort(key=lambda weight: -(weight.error or 0.0))
        return WeightShare(key, tensor.entry.label, whole, made, inherited, tuple(held))

    def _of_one(self, name: str, tensor: RecordedTensor, by_a: F32, replay: Replay) -> float | None:
        """The NMSE that B's tensor ``name`` makes of a stage, were all others A's; None where it does not fit in A's place."""
        node = self._theirs_by_tensor.get(name)
        ours = next(weight for weight in weights_of(replay.graph) if weight.attr_str("tensor") == name)
        if node is None or node.type.dims != ours.type.dims:
            return None
        order = self._alignment.order(name, math.prod(self._theirs.model.tensor(name).dims[:-1])) if _TURNED.search(name) else None
        if order is None and not self._same_rows and _TURNED.search(name):
            return None

        def read(weight: Node, user: Node) -> Array:
            if weight.name != ours.name:
                return self._ours.weights.read(weight, user)
            value = self._theirs.weights.read(node, user)
            return value if order is None else value[order]

        value = Replayer(self._replayer.graph, self._recorded, read).recompute(replay, tensor, replay.inputs)
        return compare_tensors(value, by_a, position_axis=position_axis(tensor.node.stage or "")).nmse

    def _right(self, key: Place) -> LocalError | None:
        """B's local error, where both sides are right, each by its own model."""
        found = [audit.by_key.get(key) for audit in self._audits]
        return found[1] if all(local is not None and local.state is LocalState.RIGHT for local in found) else None

    def _recorded_by_a(self, key: Place, like: F32) -> F32 | None:
        """What A recorded, in the shape of ``like``; None where that is not of as many positions."""
        entry = self._a.get(key.stage, key.layer, key.step)
        return self._a.load(entry).reshape(like.shape) if math.prod(entry.shape) == like.size else None

    def _held_otherwise(self, name: str) -> HeldWeight | None:
        """A tensor of A's model that B's has with other bytes, in another format, or not by that name."""
        if name not in self._held:
            self._held[name] = _held_otherwise(name, self._ours.model.file, self._theirs.model.file)
        return self._held[name]


def _held_otherwise(name: str, a: FileSource, b: FileSource) -> HeldWeight | None:
    ours, theirs = a.tensors[name], b.tensors.get(name)
    if theirs is None:
        return HeldWeight(name, ours.format.name, None)
    same = (ours.format, ours.dims) == (theirs.format, theirs.dims)
    if same and np.array_equal(a.tensor_bytes(ours), b.tensor_bytes(theirs)):
        return None
    return HeldWeight(name, ours.format.name, theirs.format.name)


def _in_rows_of(a: ReplayedModel, b: ReplayedModel, trace: Trace, prompt: PromptTokens) -> Trace:
    """B's trace, which is in the order of B's model, with its rows of q and k as A's model has them.

    What holds such rows and cannot be turned, for its size is not the model's, is left out.
    """
    wanted, held = order_of_graph(a.graph), order_of_graph(b.graph)
    if wanted is None or held is None or wanted == held:
        return trace
    recorded = Recorded(trace, b.graph, tokens_of(trace, prompt))
    tensors = [tensor for step in recorded.steps for tensor in recorded.of_step(step).values() if is_turned(tensor.entry.stage)]
    # Without a manifest the entries are flat.
    shapes = {one.entry.key: one.shape for one in tensors if one.is_whole and one.shape is not None}
    layouts = rows_of(TraceAsRead(trace, shapes=shapes), b.graph)
    readings = {key: (Reading((row_order(layout, held, wanted),)), shapes[key]) for key, layout in layouts.items() if key in shapes}
    unturned = {entry.key for entry in trace.entries if is_turned(entry.stage) and entry.key not in readings}
    places = {entry.key: None if entry.key in unturned else entry.key for entry in trace.entries}
    return TraceAsRead(trace, places=places, readings=readings, shapes=shapes)

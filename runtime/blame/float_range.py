"""Where the numbers of a run's format end: a replay in float64 goes on, and the run holds Inf, NaN or 0.

Whoever computes in float32 as the model says is not wrong there. So a tensor that is not what its replay gives is computed once more within
the range of its format; the elements that overflow on the way, or may in another order of a sum, accuse nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import OPS, Array, Role, traits_of
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.passes.replay_recorded import PREFIX
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replay import Replay, Replayer, as_recorded_type
from aprgraph.runtime.element import index_in_words, largest_element
from aprgraph.runtime.readings import layout_of
from aprgraph.runtime.reference import compute_node
from aprgraph.runtime.trace.aprt import F32

#: A finite element that is further than this from the exact one, relative to it, is not what rounding makes of it.
_FAR = 1e-2
#: What was recorded follows from an overflow if it is nearer to what does, by this factor, than to the exact value.
_NEARER = 0.1


@dataclass(frozen=True)
class FloatRange:
    """A format of floating-point numbers: its name, and the largest that is finite.

    Where no number is ``large``, nothing that is computed from them overflows: neither squares nor sums of products.
    """

    name: str
    largest: float
    large: float


FLOAT32 = FloatRange("float32", float(np.finfo(np.float32).max), 1e12)
FLOAT16 = FloatRange("float16", float(np.finfo(np.float16).max), 100.0)


@dataclass(frozen=True)
class Overflow:
    """The elements of a tensor, bool in its shape, that overflow ``format``; ``words`` say by what."""

    format: FloatRange
    elements: npt.NDArray[np.bool_]
    words: str


def find_overflow(
    replayer: Replayer, replay: Replay, tensor: RecordedTensor, recorded: F32, computed: F32, within: FloatRange
) -> Overflow | None:
    """What of ``computed``, the exact replay of ``tensor``, overflows ``within``; None if nothing does.

    Where something overflows on the way, the elements of ``recorded`` that follow from that do too.
    """
    graph = part_of(replay.graph, (tensor.node.name,))
    part = replace(replay, graph=graph)
    narrow = _Narrow(replayer, part, within)
    got = as_recorded_type(narrow.run(), tensor)
    with np.errstate(all="ignore"):
        far = np.abs(got - computed) > _FAR * np.abs(computed)
        follows = np.abs(recorded - got) < _NEARER * np.abs(recorded - computed)
    elements: npt.NDArray[np.bool_] = ~np.isfinite(got) | far | follows if narrow.overflowed else ~np.isfinite(got)
    if not elements.any():
        return None
    return Overflow(within, elements, f"{within.name} overflows here: {_largest(replayer, part)}")


def _largest(replayer: Replayer, replay: Replay) -> str:
    """The largest magnitude among a tensor's exact values, what is computed on the way and what it is computed from."""
    best: tuple[float, str] = (-1.0, "")
    last = next(iter(replay.graph.outputs))
    for node, value in replayer.run(replay):
        name = node.name.removeprefix(PREFIX)
        if name not in replayer.graph or (own := replayer.graph[name]).stage is None:
            continue
        found = largest_element(value)
        if found is not None and found[0] > best[0]:
            axes = layout_of(replayer.graph, own, value.shape).axes
            place = index_in_words([letter for letter, _ in axes], np.unravel_index(found[1], [size for _, size in axes]))
            of = "" if node.name == last else f" of {'' if own.layer is None else f'layer {own.layer} '}{own.stage}"
            best = found[0], f"|x| up to {found[0]:.1e} at {place}{of}"
    return best[1]


class _Narrow:
    """Evaluates a replay in float32, where what exceeds ``within`` is infinite, and what may overflow on the way is NaN."""

    def __init__(self, replayer: Replayer, replay: Replay, within: FloatRange) -> None:
        self._replayer, self._replay, self._within = replayer, replay, within
        self.overflowed = False

    def run(self) -> Array:
        """The value of the graph's one output; ``overflowed`` says whether anything did on the way."""
        graph, values = self._replay.graph, dict[str, Array]()
        states = {name: self._narrow(state) for name, state in self._replay.states.items()}
        for node in graph:
            role = traits_of(node).role
            if role in (Role.INPUT, Role.RECORDED):
                values[node.name] = self._narrow(self._replay.inputs[node.name])
            elif role is not Role.WEIGHT:
                operands = [
                    values[name] if name in values else _in_float32(self._replayer.read(graph[name], node))
                    for name in graph.operand_names(node.name)
                ]
                values[node.name] = self._compute(node, operands, states)
        (last,) = graph.outputs
        return values[last]

    def _compute(self, node: Node, operands: list[Array], states: dict[str, Array]) -> Array:
        before = {name: _magnitude(state) for name, state in states.items() if name == node.name}
        with np.errstate(all="ignore", over="call", call=self._see):
            value = self._narrow(compute_node(node, operands, states))
        if not traits_of(node).sums:
            return value
        # Engines add in float32, whatever they keep the sum in.
        with np.errstate(all="ignore"):
            parts = compute_node(_uncapped(node), _magnitudes(node, operands), before).astype(np.float32)
        if np.isfinite(parts).all():
            return value
        self.overflowed = True
        return np.where(np.isfinite(parts), value, np.float32(np.nan))

    def _see(self, *_: object) -> None:
        self.overflowed = True

    def _narrow(self, value: Array) -> Array:
        """As numbers of the format; ids of tokens and positions as they are."""
        if value.dtype.kind != "f":
            return value
        with np.errstate(all="ignore"):
            narrow = value.astype(np.float32)
            beyond = np.isfinite(value) & (np.abs(value) > self._within.largest)
        if not beyond.any():
            return narrow
        self.overflowed = True
        return np.where(beyond, np.copysign(np.float32(np.inf), narrow), narrow)


def _uncapped(node: Node) -> Node:
    """The node without a soft cap, behind which nothing is large."""
    return replace(node, attrs={**node.attrs, "cap": 0.0}) if "cap" in node.attrs else node


class _Changed:
    """A weight that is read in parts (DecodedWeights), each of which is changed as it is read."""

    def __init__(self, parts: Array, change: Callable[[Array], Array]) -> None:
        self._parts, self._change, self.shape = parts, change, parts.shape

    def __getitem__(self, part: int | slice | Array) -> Array:
        return self._change(self._parts[part])


def _in_float32(weight: Array) -> Array:
    with np.errstate(all="ignore"):
        return weight.astype(np.float32) if isinstance(weight, np.ndarray) else _Changed(weight, _in_float32)


def _magnitudes(node: Node, operands: list[Array]) -> list[Array]:
    """Of all operands but a decay, whose sign says that a state fades."""
    names = [name.rstrip("*?") for name in OPS[node.op].operands]
    return [operand if names[min(index, len(names) - 1)] == "decay" else _magnitude(operand) for index, operand in enumerate(operands)]


def _magnitude(value: Array) -> Array:
    return np.abs(value) if isinstance(value, np.ndarray) else _Changed(value, np.abs)

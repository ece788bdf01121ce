"""Tensors that differ because one side recorded them in another form, as far as the values tell: what is computed from them agrees.

A tensor that diverges first is read as other programs record it (runtime/readings). Where one reading explains it to rounding, what was
measured after it decides, if it can tell (witnesses.py): if that agrees on both sides, the values were right and only written down
otherwise (OTHER FORM). Where nothing decides, the tensor stays divergent, with a word of how it could have been recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.stages import STAGE_BY_NAME, is_logits
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import Finding, State, classify
from aprgraph.runtime.diff.dependencies import Dependencies
from aprgraph.runtime.diff.measure import Measured, Measurer
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.reservations import RECORDED
from aprgraph.runtime.diff.witnesses import Witnesses
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Layout, Reading, find_reading, is_far, layout_of
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace

#: As in blame: a reading explains a tensor only where it leaves less than this part of the error.
_LEFT = 1e-2
#: A factor that has no name is one from here on, and from its inverse down.
_PLAIN = 1.9
#: Larger tensors are not read otherwise: that takes them into memory several times.
_LARGEST = 1 << 23


@dataclass(frozen=True)
class _Read:
    """A tensor under a reading of the side ``side``."""

    side: str
    reading: Reading
    measured: Measured


class OtherForms:
    """Looks for tensors that a side of two traces recorded otherwise. The side without a graph is the one that may have; else it is B.

    Of logits it may be either.
    """

    def __init__(self, traces: tuple[Trace, Trace], pairs: Sequence[Pair], dependencies: Dependencies, measurer: Measurer) -> None:
        self._pairs = {pair.key: pair for pair in pairs}
        self._dependencies = dependencies
        self._measurer = measurer
        self._witnesses = Witnesses(self._pairs, dependencies, measurer.prompt)
        graphs = [trace.graph() for trace in traces]
        self._side = "A" if graphs[0] is None and graphs[1] is not None else "B"
        self._traces = traces
        self._nodes = _nodes(graphs[1] if graphs[0] is None else graphs[0])
        self._graph = graphs[1] if graphs[0] is None else graphs[0]

    def settle(self, judged: Mapping[Place, Measured]) -> dict[Place, Measured]:
        """``judged`` with the tensors that were recorded otherwise as such. Raises TraceError that names a damaged file."""
        read: dict[Place, _Read] = {}
        tried: set[Place] = set()
        current = dict(judged)
        while True:
            fresh = [key for key in self._first(current) if key not in tried]
            found = self._read_all(fresh, judged, tried)
            # What one layer records otherwise, the others mostly do too.
            stages = {key.stage for key in found}
            found |= self._read_all([key for key in judged if key.stage in stages and key not in tried], judged, tried)
            if not found:
                break
            read |= found
            current |= {key: one.measured for key, one in found.items()}
        confirmed = self._confirmed(read, current)
        return {
            key: read[key].measured if key in confirmed else _doubted(one, read[key]) if key in read else one for key, one in judged.items()
        }

    def _first(self, current: Mapping[Place, Measured]) -> list[Place]:
        _, firsts = classify({key: Finding(one.state, one.nmse, one.beyond_inputs) for key, one in current.items()}, self._dependencies)
        return [first.key for first in firsts]

    def _read_all(self, keys: Sequence[Place], judged: Mapping[Place, Measured], tried: set[Place]) -> dict[Place, _Read]:
        tried.update(keys)
        found = ((key, self._read(self._pairs[key], judged[key])) for key in keys)
        return {key: one for key, one in found if one is not None}

    def _read(self, pair: Pair, one: Measured) -> _Read | None:
        """One tensor under the reading that explains it; None if there is none."""
        metrics, shape = one.metrics, pair.shape
        if one.state not in (State.EXCEEDS, State.NAN) or not isinstance(metrics, TensorMetrics) or not pair.structured or shape is None:
            return None
        if (pair.last_of is not None and not is_logits(pair.key.stage)) or metrics.count > _LARGEST:
            return None
        # Of logits what was made of them shows by itself, on whichever side it is.
        sides = [self._side, *("AB".replace(self._side, "") if is_logits(pair.key.stage) else "")]
        return next((found for side in sides for found in [self._read_side(side, pair, metrics)] if found is not None), None)

    def _read_side(self, side: str, pair: Pair, metrics: TensorMetrics) -> _Read | None:
        """One tensor of a side under the reading that explains it."""
        a, b = pair.load(*self._traces)
        recorded, expected = (a, b) if side == "A" else (b, a)
        most = _LEFT * (1.0 if metrics.nmse is None or metrics.mismatched_nonfinite else metrics.nmse)

        def under(values: F32) -> Measured:
            return self._measurer.measure_values(pair, *((values, expected) if side == "A" else (expected, values)))

        def fits(values: F32) -> bool:
            if is_far(values, expected, most):
                return False
            found = under(values)
            return found.state in (State.IDENTICAL, State.NOISE) and (found.nmse or 0.0) <= most

        assert pair.shape is not None
        reading = find_reading(recorded, expected, self._layout(pair.key, pair.shape), fits)
        if reading is None:
            return None
        remark = f"{side}{RECORDED}{reading.words}"
        return _Read(side, reading, replace(under(reading.restore(recorded)), state=State.OTHER_FORM, remark=remark))

    def _layout(self, key: Place, shape: tuple[int, ...]) -> Layout:
        node = self._nodes.get((key.layer, key.stage))
        dims = () if node is None else node.type.dims
        fits = len(dims) == len(shape) and all(size == dim for size, dim in zip(shape, dims, strict=True) if isinstance(dim, int))
        if self._graph is not None and node is not None and fits:
            return layout_of(self._graph, node, shape)
        letters = STAGE_BY_NAME[key.stage].dims if key.stage in STAGE_BY_NAME else ()
        named = letters if len(letters) == len(shape) else tuple(f"axis {axis}" for axis in range(len(shape)))
        return Layout(tuple(zip(named, shape, strict=True)), is_logits=is_logits(key.stage))

    def _confirmed(self, read: Mapping[Place, _Read], current: Mapping[Place, Measured]) -> set[Place]:
        """The tensors whose readings what follows them bears out, the last first: one that was read otherwise may bear out another."""
        confirmed: set[Place] = set()
        measured = {key for key, found in current.items() if found.state is not State.UNMEASURED}
        for key in sorted(read, key=lambda key: self._pairs[key].entry.order, reverse=True):
            one = read[key]
            witnesses = self._witnesses.of(key, one.reading, measured)
            # Scores that hold numbers for the mask were measured without these: they agree, and were not read otherwise.
            agree = all(
                current[near].state in (State.IDENTICAL, State.NOISE)
                or near in confirmed
                or (current[near].state is State.OTHER_FORM and near not in read)
                for near in witnesses
            )
            if one.reading.certain or (witnesses and agree and not _is_odd(one.reading)):
                confirmed.add(key)
        return confirmed


def _is_odd(reading: Reading) -> bool:
    """Whether a reading has a factor near 1 that nothing is known by: so little is nobody's convention."""
    factors = [float(1 / step.restore(np.ones(1, np.float32))[0]) for step in reading.steps if step.name == "factor"]
    known = (-1.0, math.log2(math.e))
    return any(1 / _PLAIN < abs(one) < _PLAIN and not any(math.isclose(one, natural, rel_tol=1e-4) for natural in known) for one in factors)


def _nodes(graph: Graph | None) -> Mapping[tuple[int | None, str | None], Node]:
    return {} if graph is None else {(node.layer, node.stage): node for node in graph.staged()}


def _doubted(one: Measured, read: _Read) -> Measured:
    says = f"or {read.side}{RECORDED}{read.reading.words}: what is computed from it does not agree, was not recorded, or cannot tell"
    return replace(one, reason=f"{one.reason}; {says}")

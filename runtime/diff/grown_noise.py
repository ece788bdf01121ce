"""Noise that has grown: a stage beyond its limit whose inputs, recorded on both sides, differ by enough to make it so.

The limits hold for models whose layers hardly change an error. A trained model has neurons that make a few numbers of a position a
thousand times as large as all others, out of a product that may nearly cancel there: then two right runs part by a relative 1e-4 at that
position, which shows where a norm takes the large numbers away. (Measured: SmolLM2, ids 3 1 4 1 5 9 2 6 5 3, kernels for AVX2 and for
AVX-512: layer 11 ffn_swigl turns an NMSE of 1e-11 at position 8 into 7e-9; at the logits it is 5e-9. Beside activations in 8 bits
layer 12 attn_norm is 4e-2 apart.)

So a stage is also within tolerance if all that it is computed from was measured, with no stage between, is within
tolerance itself, and explains it:

- a norm, by computing the norm of both inputs, with the weights that one side's output shows: what is left is within ``own``;
- a softmax, of which an error of a score is a relative error: NMSE at most 4 · (the largest error of a score)²;
- other stages, by the gains of their operations, as in the profiles whose limits are wide (below).

None beyond what the next coarser arithmetic costs, though: 1e-7 in float32, as inputs in float16 or TF32 do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.stages import StageKind, is_logits
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.classify import State, own_computation
from aprgraph.runtime.diff.dependencies import Dependencies
from aprgraph.runtime.diff.inputs import gain_of
from aprgraph.runtime.diff.measure import Measured
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.tolerance_rules import CROWDED_FROM, LOCAL_FACTOR, exceeds
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace

F64 = npt.NDArray[np.float64]

#: The profiles of which runs have the same weights, and the largest NMSE that is said to be grown noise in each: what the next coarser
#: arithmetic costs, and half of all beside the coarsest.
GROWS_IN = {"same-graph-f32": 1e-7, "same-graph-f16": 2e-2, "same-graph-bf16": 0.5, "cross-engine-q8act": 0.5}
#: Positions from which on a weight and a bias of a channel are told apart.
_POSITIONS = 3


class GrownNoise:
    """Takes what inputs explain out of what exceeds its limit."""

    def __init__(
        self, profile: str, traces: tuple[Trace, Trace], pairs: Sequence[Pair], dependencies: Dependencies, limits: Tolerances
    ) -> None:
        self._traces, self._dependencies, self._limits = traces, dependencies, limits
        self._profile, self._most = profile, GROWS_IN[profile]
        self._pairs = {pair.key: pair for pair in pairs}
        self._key_of = {value: key for key, value in dependencies.value_of.items()}

    def settle(self, measured: Mapping[Place, Measured]) -> tuple[dict[Place, Measured], list[str]]:
        """``measured`` with what has grown within tolerance, and a note of that. Raises TraceError that names a damaged file."""
        settled = dict(measured)
        if not any(one.state is State.EXCEEDS for one in measured.values()):
            return settled, []
        grown: list[Place] = []
        for value in self._dependencies.operands:
            key = self._key_of.get(value)
            one = None if key is None else settled.get(key)
            if key is None or one is None or one.state is not State.EXCEEDS or one.beyond_inputs:
                continue
            limit = self._limit_by_inputs(key, settled)
            if limit is not None and isinstance(one.metrics, TensorMetrics):
                limit = min(limit, self._most)
                if limit > one.limit and exceeds(one.metrics, limit, self._limits.find(key.stage)) is None:
                    grown.append(key)
                    settled[key] = replace(one, state=State.NOISE, limit=limit, reason=None)
        return settled, [self._note(grown, measured)] if grown else []

    def _limit_by_inputs(self, key: Place, settled: Mapping[Place, Measured]) -> float | None:
        """The NMSE that the inputs of a stage explain; None where they are not known, are beyond their own limits, or explain nothing."""
        _, inputs = own_computation(self._dependencies.value_of[key], self._dependencies, self._key_of)
        sources = [self._key_of[value] for value in inputs]
        known = [one for source in sources if (one := settled.get(source)) is not None and one.state in (State.IDENTICAL, State.NOISE)]
        if self._limits.override(key.stage) is not None or len(known) < len(sources) or all(one.state is State.IDENTICAL for one in known):
            return None
        errors = [one.metrics for one in known if isinstance(one.metrics, TensorMetrics)]
        kind, gain = kind_of(key.stage), gain_of(key.stage)
        own = self._limits.find(key.stage).own
        if kind is StageKind.NORM:
            return self._most if len(sources) == 1 and self._is_norm_of(key, sources[0], own) else None
        if kind is StageKind.SOFTMAX:
            largest = max((one.max_abs or 0.0 for one in errors), default=0.0)
            return 4 * largest**2
        metrics = settled[key].metrics
        if gain is None or not isinstance(metrics, TensorMetrics):
            return None
        count = metrics.positions.size if metrics.positions is not None else 1
        factor = gain.many if count >= CROWDED_FROM else gain.few
        carried = max((one.nmse or 0.0 for one in errors), default=0.0)
        if is_logits(key.stage):  # of the last position alone
            carried = max(carried, *(self._error_of_last(source) for source in sources))
        return factor * (carried + own)

    def _error_of_last(self, key: Place) -> float:
        """The NMSE of the last position of a tensor; 0 where that is not known."""
        pair = self._pairs.get(key)
        if pair is None or pair.position_axis != 0:
            return 0.0
        a, b = (np.asarray(side[-1], np.float64) for side in pair.load(*self._traces))
        signal = max(float(np.square(a).sum()), float(np.square(b).sum()))
        return float(np.square(a - b).sum()) / signal if signal else 0.0

    def _is_norm_of(self, key: Place, source: Place, own: float) -> bool:
        """Whether both sides' outputs are one norm, of whatever weights, of what the sides have as its input."""
        pair, read = self._pairs[key], self._pairs.get(source)
        if read is None or pair.shape is None or pair.shape != read.shape or len(pair.shape) != 2 or pair.last_of or read.last_of:
            return False
        (out_a, out_b), (x_a, x_b) = ([np.asarray(side, np.float64) for side in one.load(*self._traces)] for one in (pair, read))
        if not all(np.isfinite(side).all() for side in (out_a, out_b, x_a, x_b)):
            return False
        return any(
            _is_norm_of((out_a, out_b), (x_a, x_b), own, groups, is_layer_norm=one)
            and _is_norm_of((out_b, out_a), (x_b, x_a), own, groups, is_layer_norm=one)
            for one, groups in self._norms(key)
        )

    def _norms(self, key: Place) -> list[tuple[bool, int]]:
        """Whether a norm takes the mean off, and how many of them are in a row: what a trace's graph says, or what is possible."""
        graph = self._traces[0].graph() or self._traces[1].graph()
        _, name = self._dependencies.value_of[key]
        node = None if graph is None or name not in graph else graph[name]
        if node is None:
            return [(False, 1), (True, 1)]
        return [(node.op == "layer_norm", node.attr_int("groups", 1))]

    def _note(self, grown: Sequence[Place], measured: Mapping[Place, Measured]) -> Caveat:
        largest = max(grown, key=lambda key: measured[key].nmse or 0.0)
        nmse, limit = measured[largest].nmse, measured[largest].limit
        if len(grown) == 1:
            many = f"{grown[0].label} differs by more than is usual in {self._profile} (NMSE {nmse:.1e}, limit {limit:.2g}), and"
        else:
            many = (
                f"{len(grown)} tensors differ, from {grown[0].label} on, by more than is usual in {self._profile} (NMSE {nmse:.1e} at "
                f"{largest.label}, limit {limit:.2g}), each"
            )
        return Caveat(
            f"{many} by no more than what it reads makes it: noise that has grown; a replay of the model looks at each stage by itself"
        )


def _is_norm_of(out: tuple[F64, F64], x: tuple[F64, F64], own: float, groups: int, *, is_layer_norm: bool) -> bool:
    """Whether what two outputs differ by is what a norm of either input, with the weights of the first output, makes of both."""
    (out_a, out_b), (normed_a, normed_b) = out, (_normed(side, groups, is_layer_norm=is_layer_norm) for side in x)
    if is_layer_norm and len(out_a) < _POSITIONS:
        return False
    middle, normed_middle = (side.mean(axis=0) if is_layer_norm else 0.0 for side in (out_a, normed_a))
    with np.errstate(all="ignore"):
        apart = normed_a - normed_middle
        weight = np.nan_to_num(((out_a - middle) * apart).sum(axis=0) / np.square(apart).sum(axis=0))
    left = np.square((out_b - out_a) - (normed_b - normed_a) * weight).sum(axis=1)
    signal = np.maximum(np.square(out_a).sum(axis=1), np.square(out_b).sum(axis=1))
    return bool(left.sum() <= own * signal.sum() and left.max() <= LOCAL_FACTOR * own * max(signal.mean(), signal[left.argmax()]))


def _normed(x: F64, groups: int, *, is_layer_norm: bool) -> F64:
    parts = x.reshape(len(x), groups, -1)
    if is_layer_norm:
        parts = parts - parts.mean(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        normed = parts / np.sqrt(np.square(parts).mean(axis=-1, keepdims=True))
    return np.asarray(np.nan_to_num(normed.reshape(x.shape)))

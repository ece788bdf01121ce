"""A stage against its inputs: how much of a tensor's error they, and its own arithmetic, explain.

Where weights or activations are rounded to few bits, the limit of a whole model allows so much that a fault hides in it. But
what an operation makes of the error of its inputs is known better than that: a matmul hardly changes an NMSE. So where all that a stage is
computed from was measured, with no stage between, its NMSE is at most

    gain · (the largest NMSE of its inputs + what its weights cost + ``own`` of the arithmetics)

with the gain of its operation below. Weights cost what their block format costs one matmul (weight_noise.py). Norms and the softmax
are left out. A few very large activations can hold nearly all of a hidden state's energy and none of its error; a norm's weights take
them away, which raised an NMSE 1300 times (measured). And exp multiplies it by the square of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.diff.classify import State, own_computation
from aprgraph.runtime.diff.dependencies import Dependencies
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.measure import Measured
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.tolerance_rules import CROWDED_FROM, FEW_ELEMENTS, exceeds
from aprgraph.runtime.diff.tolerances import PROFILES, kind_of
from aprgraph.runtime.diff.weight_noise import WeightNoise
from aprgraph.runtime.place import Place


@dataclass(frozen=True)
class Gain:
    """How many times the error of its inputs an operation may have: ``many`` with CROWDED_FROM positions or more, ``few`` with less.

    The energy of few elements is a matter of chance: a product of one position's has been 6 times what its inputs explain.
    """

    many: float
    few: float
    derivation: str


LINEAR = Gain(5, 15, "Measured at most 2.6, with fewer than five positions 6.4 (the logits of one).")
_TURN = Gain(5, 15, "A rotation. Measured at most 1.6, with fewer than five positions 3.9.")
_SCORES = Gain(20, 60, "Products of two noisy rows. Measured at most 8, with one position 20.")
_MIX = Gain(50, 100, "v is a small part of q, k and v side by side, with a larger error. Measured at most 16, with one position 48.")
_ACTIVATION = Gain(5, 15, "Measured at most 2.2, with one position too.")
_PRODUCT = Gain(15, 30, "A product of two noises. Measured at most 5.5, with one position 9.")
_SUM = Gain(50, 100, "The terms of a sum may cancel. Measured at most 13, with one position 22.")

#: Factors of a product of what was computed.
_TWO = 2
#: In the order of docs/tolerances.md.
GAINS = (LINEAR, _TURN, _SCORES, _MIX, _ACTIVATION, _PRODUCT, _SUM)


def gain_of(stage: str) -> Gain | None:
    """The gain of a stage's operation; None where it has none, of lookups, norms, softmaxes, choices, and sums over experts."""
    known = STAGE_BY_NAME.get(stage)
    if known is None:
        return None
    # What it reads in models of another kind stands in the place of what it reads in those of its own.
    own = [name for name in known.reads if (one := STAGE_BY_NAME.get(name)) is None or one.only_with in (None, known.only_with)]
    values = [name for name in own if kind_of(name) is not StageKind.INDEX]
    if known.kind is StageKind.ROPE:
        return _TURN
    if known.is_sum:
        return _SUM
    if known.kind is StageKind.ELEMENTWISE:
        return _PRODUCT if known.is_product or len(values) > 1 else _ACTIVATION
    if known.kind is not StageKind.MATMUL or len(values) > _TWO:
        return None
    if not known.is_per_choice and any(STAGE_BY_NAME[name].is_per_choice for name in values if name in STAGE_BY_NAME):
        return None  # a sum over experts
    if len(values) == _TWO and set(values) <= set(known.recalls):
        return None  # what a state has gathered of products
    if len(values) < _TWO:
        return LINEAR
    return _MIX if StageKind.SOFTMAX in map(kind_of, values) else _SCORES


#: Profiles whose limits are so wide that a stage is held to its inputs as well.
HELD_TO_INPUTS = ("cross-engine-q8act", "cross-engine-q8k", "quant-vs-float")


class InputsRule:
    """Holds tensors to what their inputs explain. ``arithmetics`` are the profiles that cover the arithmetic of either side; ``noise`` is
    what weights cost, None where both sides have the same.
    """

    def __init__(self, dependencies: Dependencies, arithmetics: Sequence[str], noise: WeightNoise | None) -> None:
        self._dependencies = dependencies
        self._arithmetics = arithmetics
        self._noise = noise

    def hold(self, measured: Mapping[Place, Measured], tolerances: Tolerances) -> dict[Place, Measured]:
        """``measured`` with what its inputs do not explain beyond the limit; where a limit was set by hand it stays."""
        states = {value: measured.get(key) for key, value in self._dependencies.value_of.items()}
        held = dict(measured)
        for key, one in measured.items():
            gain = gain_of(key.stage)
            if one.state is not State.NOISE or gain is None or tolerances.override(key.stage):
                continue
            if not isinstance(one.metrics, TensorMetrics) or one.metrics.count < FEW_ELEMENTS:
                continue
            region, inputs = own_computation(self._dependencies.value_of[key], self._dependencies, states)
            errors = [_error(states[value]) for value in inputs]
            carried = [error for error in errors if error is not None]
            if carried and len(carried) == len(errors):
                held[key] = self._held(one, key, gain, max(carried), 0.0 if self._noise is None else self._noise.of(region), tolerances)
        return held

    def _held(self, one: Measured, key: Place, gain: Gain, carried: float, weights: float, tolerances: Tolerances) -> Measured:
        assert isinstance(one.metrics, TensorMetrics)
        own = max(PROFILES[profile][kind_of(key.stage)].own for profile in self._arithmetics)
        count = one.metrics.positions.size if one.metrics.positions is not None else 1
        factor = gain.many if count >= CROWDED_FROM else gain.few
        limit = factor * (carried + weights + own)
        if limit >= one.limit:
            return one
        # A channel of few elements says little: each is one draw.
        metrics = one.metrics if count >= CROWDED_FROM else replace(one.metrics, channels=None)
        reason = exceeds(metrics, limit, tolerances.find(key.stage))
        if reason is None:
            return replace(one, limit=limit)
        explained = f"{factor:g} times what its inputs carry (NMSE {carried:.1e})"
        if weights:
            explained += f" and its quantised weights cost ({weights:.1e})"
        return replace(one, state=State.EXCEEDS, limit=limit, reason=f"{reason}: {explained}", beyond_inputs=True)


def _error(one: Measured | None) -> float | None:
    """The NMSE of an input, None where it is not known. Ids that agree carry none."""
    if one is None:
        return None
    if isinstance(one.metrics, IndexMetrics):
        return 0.0 if not one.metrics.differing else None
    return one.nmse if one.state in (State.IDENTICAL, State.NOISE, State.EXCEEDS) else None

"""How much of a local error rounding alone explains: the replay of the same inputs, each changed by a rounding error.

The tolerance table holds for sums as they usually are. Where large terms cancel, the same rounding is a larger part of what is
left, and no table knows that beforehand; so a tensor beyond its limit is computed once more before anybody is blamed. Of a replay
across stages that were not recorded, each of these is rounded too: what the first of thirty layers rounds, the others may amplify.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Iterator, Mapping

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, is_computed, traits_of
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.passes.replay_recorded import PREFIX
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replay import Replay, Replayer
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.trace.aprt import F32

#: The relative rounding error of an element (the largest) of what a matrix product reads, by profile.
_UNIT = {
    "same-graph-f32": 2.0**-24,
    "same-graph-f16": 2.0**-11,
    "same-graph-bf16": 2.0**-8,
    "cross-engine-q8act": 2.0**-7,
    "cross-engine-q8k": 2.0**-6,
    "quant-vs-float": 2.0**-4,
}
#: How much more energy a kernel's error may have than that of rounded inputs. In a sum of K terms of random sign on L lanes the k-th
#: partial sum has k times the energy of a term, and each is rounded: K / (2 L) times what rounding every term once gives; 64 for
#: K = 4096 and 32 lanes (four vectors of eight).
_FACTOR = 64.0


def explained_by_rounding(
    replayer: Replayer,
    replay: Replay,
    tensor: RecordedTensor,
    computed: F32,
    metrics: TensorMetrics,
    *,
    profile: str,
    most: float = math.inf,
) -> str | None:
    """Why ``metrics`` (recorded against ``computed``) is no more than rounding, in words; None if it is more.

    ``most`` is the largest rounding error of an element, where it is known to be less than the profile's.
    """
    stage = tensor.node.stage
    assert stage is not None
    smallest = _UNIT["same-graph-f32"]
    of_products = max(min(_UNIT[profile], most), smallest)
    unit = of_products if kind_of(stage) is StageKind.MATMUL else smallest
    part = part_of(replay.graph, (tensor.node.name,))
    inside = {
        node.name
        for node in part.staged()
        if is_computed(node) and node.name != tensor.node.name and kind_of(node.stage or "") is not StageKind.INDEX
    }
    recorded = ((node.name, replayer.graph[node.name.removeprefix(PREFIX)]) for node in part if node.name.startswith(PREFIX))
    ids = {name for name, node in recorded if kind_of(node.stage or "") is StageKind.INDEX}
    multiplied = {name for node in part if traits_of(node).is_matmul for name in part.operand_names(node.name)}

    def rounded(node: Node, value: Array) -> Array:
        if node.name not in inside:
            return value
        return _with_errors(value, node.name, of_products if node.name in multiplied else smallest)

    other = replayer.recompute(replay, tensor, _Rounded(replay.inputs, unit, ids), rounded)
    floor = compare_tensors(computed, other)
    if (
        not floor.max_abs
        or _energy(metrics) > _FACTOR * _energy(floor)
        or (metrics.max_abs or 0.0) > 2 * math.sqrt(_FACTOR) * floor.max_abs
    ):
        return None
    what = "what it is computed from, and each stage on the way," if inside else "its inputs alone"
    return f"large terms cancel here: rounding {what} gives an NMSE of {floor.nmse:.1e}"


def _energy(metrics: TensorMetrics) -> float:
    """The energy of the error, per element. Relative to the values it would say nothing where these are rounding errors themselves."""
    return (metrics.nmse or 0.0) * max(metrics.rms_a or 0.0, metrics.rms_b or 0.0) ** 2


def _with_errors(value: Array, name: str, unit: float) -> Array:
    """``value`` with a rounding error of at most ``unit`` in each element, the same for the same ``name`` every time."""
    errors = np.random.default_rng(zlib.crc32(name.encode())).uniform(-unit, unit, value.shape)
    return np.asarray(value * (1.0 + errors))


class _Rounded(Mapping[str, Array]):
    """Inputs of which the recorded tensors, but for those of ``ids``, carry another rounding error of at most ``unit`` in each element."""

    def __init__(self, inputs: Mapping[str, Array], unit: float, ids: Container[str]) -> None:
        self._inputs = inputs
        self._unit = unit
        self._ids = ids

    def __getitem__(self, name: str) -> Array:
        value = self._inputs[name]
        if not name.startswith(PREFIX) or name in self._ids:
            return value
        return _with_errors(value, name, self._unit)

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

"""Keys with each KV head as many times as query heads share it, as engines repeat them before they multiply: one of each is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops.attention import scores_by_layer
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import counted
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.as_read import TraceAsRead
from aprgraph.runtime.readings.convention import convention
from aprgraph.runtime.readings.reading import Reading, Restoration
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

#: What the convention is called.
REPEATS = "repeats"


def without_repeats(trace: Trace, graph: Graph) -> tuple[Trace, tuple[Place, ...]]:
    """``trace`` with every KV head once, and the keys of the tensors that held them several times. Raises TraceError.

    ``graph`` is the model's. Copies have to have the same bits, so that nothing is taken for a copy by its size alone.
    """
    scores = scores_by_layer(graph)
    readings: dict[Place, tuple[Reading, tuple[int, ...]]] = {}
    shapes: dict[Place, tuple[int, ...]] = {}
    for entry in trace.entries:
        node = scores.get(entry.layer)
        if node is None or not _is_of_keys(entry.stage) or entry.file is None:
            continue
        heads, kv_heads = node.attr_int("heads"), node.attr_int("kv_heads")
        columns = graph.operands(node.name)[0].type.dims[1]
        assert isinstance(columns, int)
        step = _repeats(trace, entry, heads, kv_heads, columns // heads)
        if step is not None:
            count = math.prod(entry.shape)
            readings[entry.key] = (Reading((step,)), (count,))
            shapes[entry.key] = (count // columns, columns * kv_heads // heads) if len(entry.shape) > 1 else (count * kv_heads // heads,)
    return (TraceAsRead(trace, readings=readings, shapes=shapes), tuple(readings)) if readings else (trace, ())


def _is_of_keys(stage: str) -> bool:
    """Whether the columns of a stage are those of the KV heads."""
    return stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].dims[-1] == "K*D"


def repeats_in_words(repeated: Sequence[Place]) -> str:
    """What was done with the tensors ``repeated`` that held KV heads several times, as the rest of a sentence."""
    stages = " and ".join(dict.fromkeys(stage for _, _, stage in repeated))
    tensors = counted(len(repeated), "tensor")
    return f"{stages} hold each KV head as many times as query heads share it ({tensors}), of which one of each is read"


@convention("k_post_rope, k_cache and what else has the columns of KV heads")
def _repeats(trace: Trace, entry: TraceEntry, heads: int, kv_heads: int, size: int) -> Restoration | None:
    """Each KV head as many times as query heads share it."""
    count, times = math.prod(entry.shape), heads // kv_heads
    if times < 2 or not count or count % (heads * size):
        return None
    values = np.asarray(trace.load(entry)).reshape(-1)
    rows = count // (heads * size)
    # Positions first, and heads first.
    for shape, axis in (((rows, kv_heads, times, size), 2), ((kv_heads, times, rows, size), 1)):
        copies = values.reshape(shape)
        first = copies.take([0], axis=axis)
        if (copies == first).all() and first.any():

            def restore(recorded: F32, shape: tuple[int, ...] = shape, axis: int = axis) -> F32:
                return np.ascontiguousarray(recorded.reshape(shape).take(0, axis=axis)).reshape(-1)

            return Restoration(REPEATS, f"with each KV head {times} times, once for each of its query heads", restore, certain=True)
    return None

"""Keys with each KV head as many times as query heads share it, as engines repeat them before they multiply: one of each is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops.attention import scores_by_layer
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import counted, joined
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
        if node is None or entry.file is None or (beside := _heads_beside(entry.stage, node.attr_int("heads"))) is None:
            continue
        heads, kv_heads = node.attr_int("heads"), node.attr_int("kv_heads")
        columns = graph.operands(node.name)[0].type.dims[1]
        assert isinstance(columns, int)
        if not beside and _is_once(entry.shape, heads, kv_heads, columns // heads):
            continue
        found = _repeats(trace, entry, heads, kv_heads, columns // heads, beside)
        if found is not None:
            step, width = found
            once = (beside + kv_heads * (2 if beside else 1)) * (columns // heads)
            rows = math.prod(entry.shape) // width
            readings[entry.key] = (Reading((step,)), (rows * width,))
            shapes[entry.key] = (rows, once) if len(entry.shape) > 1 else (rows * once,)
    return (TraceAsRead(trace, readings=readings, shapes=shapes), tuple(readings)) if readings else (trace, ())


def _heads_beside(stage: str, heads: int) -> int | None:
    """How many heads of q stand before those of the keys in a row of a stage, with those of the values behind them; 0 where KV heads stand
    alone, None where there are none.
    """
    letters = STAGE_BY_NAME[stage].dims[-1] if stage in STAGE_BY_NAME else ""
    return {"K*D": 0, "(H+2K)*D": heads}.get(letters)


def _is_once(shape: Sequence[int], heads: int, kv_heads: int, size: int) -> bool:
    """Whether a shape says that there are as many heads as KV heads: what is alike in neighbouring rows, or heads, is no copy then."""
    if len(shape) == 2:
        return shape[1] == kv_heads * size
    return len(shape) == 3 and 1 < kv_heads == shape[1] and shape[2] == size and shape[0] != heads


def repeats_in_words(repeated: Sequence[Place]) -> str:
    """What was done with the tensors ``repeated`` that held KV heads several times, as the rest of a sentence."""
    stages = joined(tuple(dict.fromkeys(stage for _, _, stage in repeated)))
    tensors = counted(len(repeated), "tensor")
    return f"{stages} hold each KV head as many times as query heads share it ({tensors}), of which one of each is read"


@convention("k_post_rope, k_cache and what else has the columns of KV heads; k and v, or one of them, in qkv_matmul and qkv_bias")
def _repeats(trace: Trace, entry: TraceEntry, heads: int, kv_heads: int, size: int, beside: int) -> tuple[Restoration, int] | None:
    """Each KV head as many times as query heads share it."""
    count, times = math.prod(entry.shape), heads // kv_heads
    ways = ((times,),) if not beside else ((times, times), (times, 1), (1, times))
    for each in ways if times > 1 and count else ():
        width = (beside + kv_heads * sum(each)) * size
        if count % width or (len(entry.shape) > 1 and beside and entry.shape[-1] != width):
            continue
        values = np.asarray(trace.load(entry)).reshape(-1)
        # Heads first is possible where KV heads stand alone.
        for is_first in (False,) if beside else (False, True):
            once = partial(_once, beside=beside * size, kv_heads=kv_heads, each=each, size=size, heads_first=is_first)
            if once(values) is not None:
                what = "" if len(set(each)) == 1 else f" of {'k' if each[0] > 1 else 'v'}"
                words = f"with each KV head{what} {times} times, once for each of its query heads"
                return Restoration(REPEATS, words, partial(_restored, once), certain=True), width
    return None


def _restored(once: Callable[[F32], F32 | None], recorded: F32) -> F32:
    found = once(recorded.reshape(-1))
    assert found is not None  # as when the reading was found
    return found


def _once(values: F32, *, beside: int, kv_heads: int, each: Sequence[int], size: int, heads_first: bool) -> F32 | None:
    """The rows in ``values``, flat, with every KV head once: those of ``beside`` columns of q, then of one part for each number of times
    in ``each``; flat again. None where what should be copies is not the same bits, or all zeros.
    """
    if heads_first:
        (times,) = each
        copies = values.reshape(kv_heads, times, -1, size)
        return _first_of(copies, 1)
    rows = values.reshape(-1, beside + kv_heads * sum(each) * size)
    parts, start = [rows[:, :beside]], beside
    for times in each:
        stop = start + kv_heads * times * size
        first = _first_of(rows[:, start:stop].reshape(len(rows), kv_heads, times, size), 2)
        if first is None:
            return None
        parts.append(first.reshape(len(rows), -1))
        start = stop
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)


def _first_of(copies: F32, axis: int) -> F32 | None:
    """The first along ``axis``, flat, where all are its copies; None where they are not."""
    first = copies.take([0], axis=axis)
    return np.ascontiguousarray(first).reshape(-1) if (copies == first).all() and first.any() else None

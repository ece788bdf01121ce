"""In what format a trace's numbers were kept, as they say themselves: float16 and bfloat16 leave the last bits of a float32 empty."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from aprgraph.graph.arguments import PROFILE
from aprgraph.graph.message import Message
from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

#: Elements at either end of a tensor that are looked at, and the least number of different ones that says anything: of float32 numbers,
#: one in 8,192 is a float16 by chance.
_LOOKED_AT, _LEAST = 4096, 16


@dataclass(frozen=True)
class RecordedPrecision:
    """Of ``tensors`` that say something, ``count`` hold numbers of ``format`` alone: "float16" or "bfloat16"."""

    format: str
    count: int
    tensors: int

    def describe(self, name: str) -> str:
        """In a sentence, of the trace ``name``."""
        return Message(
            f"{name}: the values of {self.count} of {self.tensors} tensors are numbers of {self.format}, so it is taken to compute in "
            "that; name another arithmetic with ",
            PROFILE,
        )


def recorded_precision(trace: Trace) -> RecordedPrecision | None:
    """The format that half of the tensors or more were kept in, the coarser if there are two; None if that is float32.

    Raises TraceError that names a file which cannot be read.
    """
    if trace not in _FOUND:
        _FOUND[trace] = _find(trace)
    return _FOUND[trace]


#: What was found of each trace: a comparison and its replays all ask.
_FOUND: WeakKeyDictionary[Trace, RecordedPrecision | None] = WeakKeyDictionary()


def _find(trace: Trace) -> RecordedPrecision | None:
    formats = [found for entry in trace.entries if _holds_reals(entry) and (found := format_of(trace.load_unverified(entry))) is not None]
    coarse = [found for found in formats if found != "float32"]
    if not coarse or 2 * len(coarse) < len(formats):
        return None
    return RecordedPrecision("bfloat16" if "bfloat16" in coarse else "float16", len(coarse), len(formats))


def _holds_reals(entry: TraceEntry) -> bool:
    stage = STAGE_BY_NAME.get(entry.stage)
    return entry.file is not None and (stage is None or stage.kind is not StageKind.INDEX)


def format_of(values: F32) -> str | None:
    """The coarsest format that holds every element of ``values``; None where too few of them say anything."""
    flat = values.reshape(-1)
    sample = np.concatenate([flat[:_LOOKED_AT], flat[max(_LOOKED_AT, flat.size - _LOOKED_AT) :]])
    # 0, 1, Inf and NaN are numbers of every format; so are the least numbers that stand for masks.
    sample = sample[np.isfinite(sample) & (sample != 0) & (np.abs(sample) != 1) & (np.abs(sample) < 1e30)]
    if np.unique(sample[: 4 * _LEAST]).size < _LEAST and np.unique(sample).size < _LEAST:
        return None
    if not (sample.view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if np.array_equal(sample.astype(np.float16).astype(np.float32), sample) else "float32"

"""Sliding windows: layers that attend to the last positions only (Beltagy et al. 2020, arXiv:2004.05150)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.metadata import ArrayValue

if TYPE_CHECKING:
    from aprgraph.graph.families.base import Family

_KEY, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"


class Windows(Reading["tuple[int, ...]"]):
    """The sliding window of each layer, in positions; 0 for a layer that attends to all positions.

    Every layer has the window if ``period`` is 0; else every ``period``-th layer attends to all positions. Files may
    say which layers have it. ``default`` is the window of a file that names none. ``chunked``: windows do not slide;
    positions come in chunks of as many, and attend to those of their own chunk (Llama 4). ``first``: the first of each
    ``period`` layers attends to all positions, and not the last.
    """

    def __init__(self, period: int, default: int = 0, *, chunked: bool = False, first: bool = False) -> None:
        super().__init__(self.of)
        self.period, self.default, self.chunked, self.first = period, default, chunked, first
        self.hf = "attention_chunk_size" if chunked else "sliding_window"

    def of(self, family: Family) -> tuple[int, ...]:
        """The windows of a family's layers."""
        metadata, layers, key, pattern_key = family.metadata, family.layers, family.key(_KEY), family.key(_PATTERN)
        window = metadata.integer(key, self.default)
        if not 0 <= window < 1 << 31:
            raise ModelError(f"{metadata.path}: {metadata.own_name(key)} is {window}, expected a number of positions, or 0 for none")
        if window == 0:
            return (0,) * layers
        if isinstance(metadata.get(pattern_key), ArrayValue):
            flags = metadata.array(pattern_key).values()
            if len(flags) < layers or not all(isinstance(flag, (bool, int)) for flag in flags):
                raise ModelError(
                    f"{metadata.path}: {metadata.own_name(pattern_key)} has {len(flags)} elements, expected true or false for "
                    f"each of {layers} layers"
                )
            return tuple(window if flag else 0 for flag in flags[:layers])
        # As in llama.cpp and transformers: with a period of 1 every layer is a "period-th", and no layer slides.
        period = metadata.integer(pattern_key, self.period)
        if period < 0:
            raise ModelError(
                f"{metadata.path}: {metadata.own_name(pattern_key)} is {period}, expected a number of layers, 0 for a window in all of them"
            )
        return tuple(window if period == 0 or (layer if self.first else layer + 1) % period else 0 for layer in range(layers))


class CheckpointWindows(Reading["tuple[int, ...]"]):
    """The sliding window of each layer, which transformers applies, and llama.cpp does not: that of a checkpoint is
    read, and in a GGUF file, and of what is computed from it, every layer attends to all positions.
    """

    chunked = False

    def __init__(self) -> None:
        super().__init__(self._read)

    def _read(self, family: Family) -> tuple[int, ...]:
        return Windows(period=0).of(family) if family.metadata.dialect == "hf" else (0,) * family.layers

"""Padding beside a text, as a batch of several has it: what an attention mask says of it, and tensors without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import counted, joined
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.array_values import to_numpy
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.unread_files import Unread

#: What the array is called that is 1 at the positions of the text, and 0 at those of padding.
MASK = "attention_mask"


@dataclass(frozen=True)
class Padding:
    """The text is at the positions ``start`` to ``stop``, the end exclusive, of ``length``."""

    start: int
    stop: int
    length: int

    @property
    def count(self) -> int:
        """How many positions are padding."""
        return self.length - (self.stop - self.start)

    @property
    def sentence(self) -> str:
        """What is left out, and why."""
        where = joined([word for word, there in (("before", self.start), ("behind", self.length - self.stop)) if there])
        are = "is" if self.count == 1 else "are"
        return f"{counted(self.count, 'position')} of padding {where} the text {are} left out, as {MASK} says"


class PaddedTensors:
    """Tensors of a padded text: ``entries`` are theirs without padding, ``hidden`` those that hold padding alone."""

    def __init__(self, padding: Padding, entries: Sequence[TraceEntry]) -> None:
        self.entries: list[TraceEntry] = []
        self.hidden: list[Unread] = []
        self._padded = {entry.file: entry for entry in entries}
        self._padding = padding
        for entry in entries:
            if entry.step == 0 and padding.stop < padding.length and 1 in _sizes(entry).values():
                why = "of the last position alone, which is padding; give that of the last token of the text"
                self.hidden.append(Unread(str(entry.file), why, kind="array"))
                continue
            shape = list(entry.shape)
            for axis, kept in self._kept(entry).items():
                shape[axis] = len(kept)
            self.entries.append(replace(entry, shape=tuple(shape)))

    def without(self, file: str, read: Callable[[tuple[int, ...]], F32]) -> F32:
        """The tensor that ``read`` gives in the shape that it has with padding, without."""
        entry = self._padded[file]
        values = read(entry.shape)
        for axis, kept in self._kept(entry).items():
            values = values.take(kept, axis=axis)
        return values

    def _kept(self, entry: TraceEntry) -> dict[int, npt.NDArray[np.int64]]:
        """Which places are kept, by axis. Generated tokens attend to the padded prompt, and to what was generated."""
        padding, whole = self._padding, self._padding.length + entry.step
        kept = np.r_[padding.start : padding.stop, padding.length : whole]
        return {axis: kept for axis, size in _sizes(entry).items() if size == whole}


def read_padding(arrays: Mapping[str, Any], entries: Sequence[TraceEntry], tokens: int) -> Padding | str | None:
    """What the attention mask among ``arrays`` says of a prompt of so many ``tokens`` (0: not known), of which ``entries`` are tensors.

    None where there is no mask, and why it is not read where it is none of these positions.
    """
    if MASK not in arrays:
        return None
    try:
        mask, name = to_numpy(arrays[MASK])
    except TraceError as error:
        return f"it {error}"
    flat = mask.reshape(-1)
    if mask.shape not in ((flat.size,), (1, flat.size)) or not flat.size or not np.isin(flat, (0, 1)).all():
        return f"it is {name} of the shape {list(mask.shape)}; of 0 and 1, [n], it would say which positions are padding"
    shown = np.flatnonzero(flat)
    if not shown.size or shown[-1] - shown[0] + 1 != shown.size:
        return "it hides positions between others, or all of them: that is no padding"
    if tokens not in (0, flat.size) or not any(flat.size in _sizes(entry).values() for entry in entries if entry.step == 0):
        return f"it is of {counted(flat.size, 'position')}, and the prompt is not"
    return Padding(int(shown[0]), int(shown[-1]) + 1, flat.size)


def _sizes(entry: TraceEntry) -> dict[int, int]:
    """The sizes of the axes of positions, and of positions attended to, by axis. Logits without such an axis are of one position."""
    stage = STAGE_BY_NAME[entry.stage]
    if stage.is_logits:
        return {0: entry.shape[0]} if len(entry.shape) > 1 else {-1: 1}
    return {axis: size for axis, (letter, size) in enumerate(zip(stage.dims, entry.shape, strict=True)) if letter in ("n", "t")}

"""Blocks of integer codes taken apart: the codes of all elements, and what each run of them is multiplied by and added to.

A format's own decoder says both: it is run with codes that only note what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import NumpyBlocks

Values = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Scaled:
    """A run of codes times ``scale``, plus ``offset``; both [blocks, 1]."""

    scale: Values
    offset: Values | None = None


class _Lanes:
    """The codes of a run, or what stands in for them, to be scaled."""

    __array_ufunc__ = None  # an array on the left leaves the product to this class

    def __rmul__(self, scale: Any) -> Scaled:
        return Scaled(scale)


class CodeReader(NumpyBlocks):
    """Reads blocks, and knows which integers are codes: those that there are RUN of in a run of elements.

    A decoder that reads by it gives a ``Scaled`` of ``codes``, which are values of ``table`` if there is one. ``shift`` is added
    to the integers that scale or shift all of a run.
    """

    def __init__(self, fmt: BlockFormat, blocks: npt.NDArray[np.uint8]) -> None:
        super().__init__(fmt, blocks)
        self.codes: Codes = np.zeros((0, RUN), np.int8)
        self.table: tuple[int, ...] | None = None
        self.shift = 0.0
        self.largest_scale = 1.0
        self.has_scales = False

    def integer(self, field: str, index: Any = 0) -> Any:
        where = np.atleast_1d(index)
        if len(where) == 1:
            return super().integer(field, index)
        # All that is done with codes of at most 8 bits leaves them within 8 bits.
        return self._columns[field].view(np.int8)[:, int(where[0]) : int(where[0]) + len(where)]

    def bit(self, field: str, first: int, lane: Any) -> Any:
        packed = self._columns[field][:, first // 8 : (first + len(lane)) // 8]
        return np.unpackbits(packed, axis=1, bitorder="little").view(np.int8)

    def real(self, field: str, index: Any = 0) -> Any:
        return super().real(field, index).astype(np.float32)

    def to_real(self, value: Any) -> Any:
        if value.shape[-1] != RUN:
            self.has_scales = True
            self.largest_scale = max(self.largest_scale, float(np.abs(value).max(initial=0)))
            return value.astype(np.float32) + np.float32(self.shift)
        self.codes = value
        return _Lanes()

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return Scaled(a, c) if isinstance(b, _Lanes) else super().fma(a, b, c)

    def lookup(self, table: tuple[int, ...], index: Any) -> Any:
        self.table = table
        return np.array(table, np.int8)[index]

    def power_of_two(self, exponent: Any) -> Any:
        return super().power_of_two(exponent).astype(np.float32)

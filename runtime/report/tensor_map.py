"""|A - B| of one tensor, position by channel, reduced to a picture by the maximum over blocks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.report.pieces import F64, PIECE, difference
from aprgraph.runtime.report.png import Rgb, encode_png
from aprgraph.runtime.trace.aprt import F32

HEIGHT, WIDTH = 128, 256
#: Palette entries: what is equal, the scale from the least to the largest difference, and what is a number on one side only.
EQUAL, FIRST, LAST, NO_NUMBER = 0, 1, 254, 255
#: Decades that the scale reaches below the largest difference; what is smaller has the least colour.
_DECADES = 8.0
#: Anchors of cividis (Nunez, Anderton and Renslow, 2018), which looks alike to people with and without colour-vision deficiencies.
_ANCHORS: tuple[Rgb, ...] = ((0, 34, 78), (33, 59, 110), (77, 86, 108), (112, 113, 115), (148, 142, 119), (189, 175, 106), (254, 232, 56))
_EQUAL_COLOUR: Rgb = (255, 255, 255)  # never seen: the PNG makes it transparent
_NO_NUMBER_COLOUR: Rgb = (204, 51, 153)


@dataclass(frozen=True)
class TensorMap:
    """``cells``, f64 [height, width], hold the largest |A - B| of their block, NaN where the block has a number on one side only.

    ``rows`` and ``columns`` are how many rows and columns the tensor has, ``row_name`` and ``column_name`` what they are.
    ``pooled`` says what else a cell takes the maximum over.
    """

    cells: F64
    rows: int
    columns: int
    row_name: str
    column_name: str
    pooled: str

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest difference that the scale shows; None where nothing differs by a number."""
        positive = self.cells[self.cells > 0]
        if not positive.size:
            return None
        high = float(positive.max())
        return max(float(positive.min()), high * 10.0**-_DECADES), high

    def indices(self) -> npt.NDArray[np.uint8]:
        """The palette entry of each cell, u8 [height, width], on a logarithmic scale."""
        result = np.full(self.cells.shape, EQUAL, np.uint8)
        if self.range is not None:
            low, high = (math.log10(bound) for bound in self.range)
            above = self.cells > 0
            part = (np.log10(self.cells[above]) - low) / (high - low) if high > low else np.ones(int(above.sum()))
            result[above] = np.round(FIRST + np.clip(part, 0.0, 1.0) * (LAST - FIRST)).astype(np.uint8)
        result[np.isnan(self.cells)] = NO_NUMBER
        return result

    def png(self) -> bytes:
        """The picture, one pixel per cell."""
        return encode_png(self.indices(), make_palette())


def make_palette() -> list[Rgb]:
    """All 256 colours."""
    at = np.linspace(0, len(_ANCHORS) - 1, LAST - FIRST + 1)
    channels = [np.interp(at, range(len(_ANCHORS)), [anchor[channel] for anchor in _ANCHORS]) for channel in range(3)]
    scale = [(round(float(red)), round(float(green)), round(float(blue))) for red, green, blue in zip(*channels, strict=True)]
    return [_EQUAL_COLOUR, *scale, _NO_NUMBER_COLOUR]


def scale_png() -> bytes:
    """The scale itself, from the least colour at the left to the largest at the right."""
    return encode_png(np.arange(FIRST, LAST + 1, dtype=np.uint8)[None, :], make_palette())


def make_tensor_map(a: F32, b: F32, position_axis: int | None) -> TensorMap:
    """The map of two f32 tensors of one shape.

    Rows are the positions (axis ``position_axis``), columns the last axis; over every other axis (heads, experts) the maximum is
    taken. A tensor without positions, such as the logits, is wrapped into rows like the lines of a text.
    """
    if position_axis is None or a.ndim < 2 or position_axis >= a.ndim - 1:
        return _wrapped(a.reshape(-1), b.reshape(-1))
    outer, positions = math.prod(a.shape[:position_axis]), a.shape[position_axis]
    inner, channels = math.prod(a.shape[position_axis + 1 : -1]), a.shape[-1]
    left, right = (side.reshape(outer, positions, inner, channels) for side in (a, b))
    others = [f"{size} {name}" for size, name in ((outer, "heads"), (inner, "slots")) if size > 1]
    cells = _pool(left, right)
    return TensorMap(cells, positions, channels, "position", "channel", " and ".join(others))


def _wrapped(a: F32, b: F32) -> TensorMap:
    """One row of ``a.size`` elements as lines of equal length; the last may be shorter, and is shown as equal at its end."""
    width = max(1, min(a.size, math.isqrt(2 * a.size)))
    lines = -(-a.size // width)
    whole = a.size // width
    if whole:
        left, right = (side[: whole * width].reshape(1, whole, 1, width) for side in (a, b))
        cells = _pool(left, right, lines)
    else:
        cells = np.zeros(_size(lines, width))
    if whole < lines:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            rest = np.abs(difference(*(side[whole * width :].astype(np.float64) for side in (a, b))))
        starts = _starts(width, cells.shape[1])
        padded = np.pad(rest, (0, width - rest.size))
        cells[-1] = np.maximum(cells[-1], np.maximum.reduceat(padded, starts))
    return TensorMap(cells, lines, width, "line", "element", "")


def _size(rows: int, columns: int) -> tuple[int, int]:
    return min(rows, HEIGHT), min(columns, WIDTH)


def _starts(size: int, blocks: int) -> npt.NDArray[np.intp]:
    """Where each of ``blocks`` blocks of ``size`` elements begins."""
    return (np.arange(blocks, dtype=np.intp) * size + blocks - 1) // blocks


def _pool(a: F32, b: F32, lines: int | None = None) -> F64:
    """The largest |a - b| per block, of [outer, rows, inner, columns], in pieces. ``lines`` is the number of rows if more follow."""
    outer, rows, inner, columns = a.shape
    lines = lines or rows
    cells = np.zeros(_size(lines, columns))
    height, width = cells.shape
    row_of = np.arange(lines) * height // lines
    starts = _starts(columns, width)
    step = max(1, PIECE // columns)
    for head, slot in itertools.product(range(outer), range(inner)):
        for top in range(0, rows, step):
            with np.errstate(invalid="ignore"):
                left, right = (side[head, top : top + step, slot].astype(np.float64) for side in (a, b))
            blocks = np.maximum.reduceat(np.abs(difference(left, right)), starts, axis=1)
            np.maximum.at(cells, row_of[top : top + len(blocks)], blocks)
    return cells

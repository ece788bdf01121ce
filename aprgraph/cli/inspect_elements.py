"""One tensor of ``aprgraph inspect``: an APRT or a .npy file, its statistics, and elements of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aprgraph.graph.ops import Array
    from aprgraph.runtime.trace.manifest import TraceEntry

_INDEX = re.compile(r"-?\d{1,18}")
#: Elements that are looked at at a time for the largest.
_CHUNK = 1 << 20


def describe_aprt(path: Path, at: Sequence[str], top: int | None) -> dict[str, Any]:
    """An APRT file. Its shape is that of the manifest of the trace that it lies in; without one it is a row. Raises AprgraphError."""
    from aprgraph.runtime.trace.aprt import read_aprt  # noqa: PLC0415
    from aprgraph.runtime.trace.statistics import compute_statistics  # noqa: PLC0415

    layer, values = read_aprt(path)
    where = "whole model" if layer is None else layer
    document: dict[str, Any] = {"kind": "APRT file", "stage": path.stem, "layer": where, **compute_statistics(values).to_json()}
    entry = _entry_of(path)
    if entry is not None and math.prod(entry.shape) == values.size:
        document["shape"] = list(entry.shape)
        values = values.reshape(entry.shape)
    return document | _elements(values, at, top)


def describe_npy(path: Path, at: Sequence[str], top: int | None) -> dict[str, Any]:
    """A .npy file, mapped into memory. Raises TraceError for one that is damaged, and AprgraphError."""
    from aprgraph.graph.errors import TraceError  # noqa: PLC0415
    from aprgraph.runtime.trace.array_files import open_array_file  # noqa: PLC0415
    from aprgraph.runtime.trace.array_values import is_float  # noqa: PLC0415
    from aprgraph.runtime.trace.statistics import compute_statistics  # noqa: PLC0415

    (values,) = open_array_file(path).values()
    if not (is_float(values) or values.dtype.kind in "iub"):
        raise TraceError(f"{path}: holds {values.dtype}, expected numbers; save them as numpy.float32")
    document = {"kind": ".npy file", "dtype": str(values.dtype), "shape": list(values.shape)}
    return document | compute_statistics(values).to_json() | _elements(values, at, top)


def _entry_of(path: Path) -> TraceEntry | None:
    """What a manifest above the file says of it: of a layer, of a step, or of both; None where none does."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.runtime.trace.reader import Trace  # noqa: PLC0415

    place = path.resolve()
    for folder in place.parents[:3]:
        if (folder / "trace.json").is_file():
            try:
                entries = Trace.open(folder).entries
            except AprgraphError:  # the file can be read all the same
                return None
            return next((entry for entry in entries if entry.file == place.relative_to(folder).as_posix()), None)
    return None


def _elements(values: Array, at: Sequence[str], top: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if at:
        found["elements"] = {str(list(index)): _number(values[index]) for index in (_parse_index(text, values.shape) for text in at)}
    if top is not None:
        found["largest"] = {str(list(index)): _number(values[index]) for index in _largest(values, top)}
    return found


def _parse_index(text: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``3,17``: a number for each axis, below 0 from its end. Raises AprgraphError."""
    from aprgraph.graph.errors import AprgraphError, shown  # noqa: PLC0415
    from aprgraph.graph.words import counted, shape_text  # noqa: PLC0415

    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) != len(shape) or not all(map(_INDEX.fullmatch, parts)):
        example = ",".join("0" for _ in shape)
        raise AprgraphError(
            f"--at {shown(text)}: the shape is {shape_text(shape) or 'one number'}; expected {counted(len(shape), 'whole number')} "
            f"apart by commas, such as {example}"
        )
    index = tuple(int(part) for part in parts)
    for axis, (number, size) in enumerate(zip(index, shape, strict=True)):
        if not -size <= number < size:
            raise AprgraphError(f"--at {shown(text)}: axis {axis} has {counted(size, 'element')}, expected {-size} to {size - 1} there")
    return tuple(number % size for number, size in zip(index, shape, strict=True))


def _largest(values: Array, count: int) -> list[tuple[int, ...]]:
    """The indices of the elements of largest magnitude, NaN first, in memory that does not grow with the tensor."""
    import numpy as np  # noqa: PLC0415

    flat = values.reshape(-1)
    best, sizes = np.empty(0, np.int64), np.empty(0)
    for start in range(0, flat.size, _CHUNK):
        size = np.abs(flat[start : start + _CHUNK].astype(np.float64))
        size[np.isnan(size)] = np.inf
        kept = np.argsort(-size, kind="stable")[:count]
        best, sizes = np.concatenate([best, start + kept]), np.concatenate([sizes, size[kept]])
        order = np.argsort(-sizes, kind="stable")[:count]
        best, sizes = best[order], sizes[order]
    return [tuple(int(one) for one in np.unravel_index(int(place), values.shape)) for place in best]


def _number(value: Any) -> float | int | str:
    """As JSON can hold it: float32 with all its digits, NaN and Inf as words."""
    number = value.item() if value.dtype.kind in "iub" else float(value)
    return number if math.isfinite(number) else str(number)

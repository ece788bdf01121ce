"""Weights in blocks that are decoded otherwise: bits in other places, offsets left out, scales misread.

What is tried follows from the fields of a format and its decoder, not from its name: the offset of a block, for one, is what it
decodes to with all its integers 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import NumpyBlocks, decode_blocks
from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array

#: The integers of blocks, but for those that are scales.
_QUANTS = ("qs", "ql", "qh")
#: Packed scales and minima of 6 bits: bytes of which the upper two bits belong to later ones.
_PACKED = "scales"
_Raw = npt.NDArray[np.uint8]


def misreadings(model: Model, weight: Node) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    """The name of a mistake, words that follow "decoded", and what it makes of the weight's right values."""
    info = model.tensor(weight.attr_str("tensor"))
    fmt = info.format
    if info.in_pieces is not None or fmt.is_plain or fmt.decode is None or fmt.scales is not None:
        return

    def raw() -> _Raw:
        return np.array(model.file.tensor_bytes(info)).reshape(-1, fmt.block_bytes)

    for name, words, decode in _mistakes(fmt):

        def change(right: Array, decode: Callable[[_Raw, Array], Array] = decode) -> Array:
            return decode(raw(), right.reshape(-1, fmt.elements)).reshape(right.shape)

        yield name, words, change


def _mistakes(fmt: BlockFormat) -> Iterator[tuple[str, str, Callable[[_Raw, Array], Array]]]:
    fields = {field.name: field for field in fmt.fields}
    quants = [field for field in fmt.fields if field.name in _QUANTS]
    places = {field.name: slice(fmt.offset(field.name), fmt.offset(field.name) + field.itemsize * field.count) for field in fmt.fields}

    def edited(edit: Callable[[_Raw], None], as_format: BlockFormat = fmt) -> Callable[[_Raw, Array], Array]:
        def decode(raw: _Raw, _right: Array) -> Array:
            edit(raw)
            return decode_blocks(as_format, NumpyBlocks(as_format, raw))

        return decode

    def without_quants(raw: _Raw) -> Array:
        for field in quants:
            raw[:, places[field.name]] = 0
        return decode_blocks(fmt, NumpyBlocks(fmt, raw))

    if any(field.numpy_dtype == np.uint8 for field in quants if field.name != "qh"):

        def swap(raw: _Raw) -> None:
            for field in quants:
                if field.name != "qh":
                    part = raw[:, places[field.name]]
                    raw[:, places[field.name]] = (part >> 4) | (part << 4)

        yield "nibbles", "with the two halves of each byte swapped", edited(swap)
    if fmt.elements == 32 and "qs" in fields and fields["qs"].count == 16:
        yield (
            "nibbles", "as if a byte held two neighbours, and not the elements i and i + 16",
            lambda _raw, right: right.reshape(-1, 2, 16).swapaxes(1, 2),
        )  # fmt: skip
    yield "offset", "without the offset of its integers (zero point or minimum)", lambda raw, right: right - without_quants(raw)
    yield "offset", "with the offset of its integers turned over", lambda raw, right: right - 2 * without_quants(raw)
    if "qh" in fields:
        yield "high-bits", "without the upper bits of its integers", edited(lambda raw: raw.__setitem__((slice(None), places["qh"]), 0))
    for field in fmt.fields:
        if field.dtype == "int8":
            unsigned = replace(fmt, fields=tuple(replace(one, dtype="uint8") if one is field else one for one in fmt.fields))
            yield "signs", f"with the bytes of {field.name} taken for 0 to 255", edited(lambda _: None, unsigned)
    if _PACKED in fields and fields[_PACKED].count == 12:

        def lost(raw: _Raw, right: Array) -> Array:
            raw[:, places[_PACKED].start : places[_PACKED].start + 8] &= 0x3F
            value = decode_blocks(fmt, NumpyBlocks(fmt, raw)).reshape(len(raw), 8, -1)
            value[:, :4] = right.reshape(value.shape)[:, :4]
            return value

        yield "scale-bits", "without the upper two bits of its later scales", lost
    if any(field.dtype == "float16" for field in fmt.fields):

        def flush(raw: _Raw) -> None:
            for field in fmt.fields:
                if field.dtype == "float16":
                    values = np.ascontiguousarray(raw[:, places[field.name]]).view(np.float16)
                    values[np.abs(values) < np.finfo(np.float16).smallest_normal] = 0
                    raw[:, places[field.name]] = values.view(np.uint8)

        yield "subnormal-scales", "with scales that are subnormal in float16 taken for 0", edited(flush)

"""A PNG writer for pictures with a palette (PNG specification, third edition, colour type 3), by the standard library alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3

Rgb = tuple[int, int, int]


def encode_png(indices: npt.NDArray[np.uint8], palette: Sequence[Rgb]) -> bytes:
    """``indices``, u8 [height, width], as a PNG file; each is the number of a colour of ``palette`` (at most 256).

    Colour 0 is transparent, so that it is the page's own, light or dark.
    """
    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    lines = np.zeros((height, width + 1), np.uint8)  # in front of each row the number of its filter, 0 for none
    lines[:, 1:] = indices
    parts = [(b"IHDR", header), (b"PLTE", bytes(np.array(palette, np.uint8))), (b"tRNS", b"\0")]
    parts += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in parts)


def data_uri(png: bytes) -> str:
    """``png`` as the address of an image that stands in the page itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

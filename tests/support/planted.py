"""Weights of a written model changed in place, as damage changes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.sources.gguf_file import GGUFFile

Bytes = npt.NDArray[np.uint8]


def planted(model: Path, copy: Path, **changes: Callable[[Bytes], None]) -> Path:
    """A copy of a model, with the bytes of some tensors changed: u8 [rows, bytes of a row]. Dots of names are written as ``__``."""
    shutil.copyfile(model, copy)
    for name, change in changes.items():
        info = GGUFFile(copy).tensors[name.replace("__", ".")]
        with copy.open("r+b") as file:
            file.seek(info.offset)
            rows = np.frombuffer(file.read(info.nbytes), np.uint8).reshape(-1, info.row_bytes).copy()
            change(rows)
            file.seek(info.offset)
            file.write(rows.tobytes())
    return copy


def nan_scales(*blocks: tuple[int, int], block_bytes: int, offset: int = 0) -> Callable[[Bytes], None]:
    """Makes the float16 scale of the blocks (row, number in the row) NaN."""

    def change(rows: Bytes) -> None:
        for row, block in blocks:
            start = block * block_bytes + offset
            rows[row, start : start + 2] = (0x00, 0x7E)

    return change

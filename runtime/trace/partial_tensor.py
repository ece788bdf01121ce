"""A tensor that is recorded in parts: an APRT file under a temporary name, filled where each part belongs."""

from __future__ import annotations

import contextlib
import math
import os

import numpy as np

from aprgraph.graph.errors import TraceError
from aprgraph.graph.temporary_files import forget, note
from aprgraph.graph.whole_file import put_in_place, temporary_name
from aprgraph.runtime.trace.aprt import F32, HEADER, file_size, pack_header


class PartialTensor:
    """f32 of ``shape``, 0 until a part is put there; it lies on disk, since a long prompt has many of them at once."""

    def __init__(self, path: str, layer: int | None, shape: tuple[int, ...]) -> None:
        """Raises TraceError if the file cannot be made."""
        self.path = path
        self._temporary = temporary_name(path)
        note(self._temporary)
        count = math.prod(shape)
        header = pack_header(layer, count)
        try:
            with open(self._temporary, "wb") as file:
                file.write(header)
                # Zeros are what masked positions hold; they take room on the disk all the same, so that a full one shows here.
                os.posix_fallocate(file.fileno(), 0, file_size(count))
            self.values: F32 = np.memmap(self._temporary, dtype="<f4", mode="r+", offset=HEADER.size, shape=shape)
        except OSError as error:
            self.discard()
            raise TraceError.unwritable(path, error) from None

    def put(self, values: F32, axis: int, start: int) -> None:
        """Put a part there: along ``axis`` from ``start`` on, along the others from 0 on."""
        at = [slice(0, size) for size in values.shape]
        at[axis] = slice(start, start + values.shape[axis])
        self.values[tuple(at)] = values

    def keep(self) -> None:
        """Give the file its name. Raises TraceError."""
        try:
            put_in_place(self._temporary, self.path, alone=True)
            forget(self._temporary)
        except OSError as error:
            raise TraceError.unwritable(self.path, error) from None

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)
        forget(self._temporary)

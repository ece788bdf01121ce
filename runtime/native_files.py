"""Makes APRT files by a kernel, several at once, with no Python between one and the next."""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.calling_convention import FILE_COLUMNS
from aprgraph.runtime.trace.aprt import HEADER, pack_header, write_aprt
from aprgraph.runtime.trace.writing_between import ToWrite

#: Files that were not there, which no program that is started meanwhile gets.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: Files that are written at once at most; bytes that are worth a thread; and those that take as long to write as a file to make.
_FILES, _WORTH, _FILE = 8, 1 << 18, 1 << 15
#: What the kernel says of a file that is there now, but not whole.
_IN_PART = 2


def write_natively(
    kernel: Callable[..., object], from_dlpack: Callable[[npt.NDArray[Any]], Any], threads: int, tensors: Sequence[ToWrite]
) -> None:
    """Write tensors, f32 in C order, to new files by FILES_KERNEL, ``kernel``.

    ``write_aprt`` writes those that it could not, as where a file is there, or says why they cannot be written: Raises TraceError.
    """
    total = sum(values.nbytes for _, _, values in tensors)
    groups = _groups(tensors, max(1, min(threads, _FILES, total // _WORTH)))
    tensors = [tensor for group in groups for tensor in group]
    bounds = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    headers = np.frombuffer(b"".join(pack_header(layer, values.size) for _, layer, values in tensors), np.uint8)
    names = [os.fsencode(path) + b"\0" for path, _, _ in tensors]
    paths = np.frombuffer(b"".join(names), np.uint8)
    files = np.empty((len(tensors), FILE_COLUMNS), np.int64)
    files[:, 0] = paths.ctypes.data + np.cumsum([0, *map(len, names[:-1])])
    files[:, 1] = headers.ctypes.data + HEADER.size * np.arange(len(tensors))
    files[:, 2] = HEADER.size
    files[:, 3] = [from_dlpack(values).data_ptr() for _, _, values in tensors]  # NumPy itself takes six times as long to say it
    files[:, 4] = [values.nbytes for _, _, values in tensors]
    states = np.empty(len(tensors), np.int64)
    kernel(from_dlpack(bounds), from_dlpack(files), _FLAGS, from_dlpack(states))
    for index in np.flatnonzero(states == _IN_PART):
        with contextlib.suppress(OSError):
            os.unlink(tensors[index][0])  # noqa: PTH108 -- as paths come
    for index in np.flatnonzero(states):
        write_aprt(*tensors[index])


def _groups(tensors: Sequence[ToWrite], count: int) -> list[list[ToWrite]]:
    """The tensors in ``count`` groups that take about as long as each other, none of them empty where there are as many tensors."""
    if count == 1:
        return [list(tensors)]
    groups: list[list[ToWrite]] = [[] for _ in range(count)]
    taken = [(0, index) for index in range(count)]
    for tensor in sorted(tensors, key=lambda tensor: -tensor[2].nbytes):
        cost, index = taken[0]
        groups[index].append(tensor)
        heapq.heapreplace(taken, (cost + tensor[2].nbytes + _FILE, index))
    return groups

"""The APRT file: one tensor, shared with the Rust tool ``apr``.

    bytes 0-3   magic "APRT"
    bytes 4-7   u32 little-endian: layer, or 0xFFFFFFFF for a whole-model stage
    bytes 8-11  u32 little-endian: number of f32 elements that follow
    then        f32 little-endian, row-major, positions concatenated

The size is exactly 12 + 4 · count. Bit patterns of NaN and Inf are kept.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import TraceError
from aprgraph.graph.temporary_files import forget, note
from aprgraph.graph.whole_file import put_in_place, temporary_name

MAGIC = b"APRT"
#: How .npy, .npz and .pt files begin.
_ARRAYS = (b"\x93NUM", b"PK\x03\x04")
HEADER = struct.Struct("<4sII")
WHOLE_MODEL = 0xFFFFFFFF
MAX_ELEMENTS = 0xFFFFFFFF

#: Bytes of a file that is read in one piece: to map it into memory would cost ten times that.
SMALL = 1 << 16

F32 = npt.NDArray[np.float32]


def file_size(count: int) -> int:
    """Bytes of an APRT file with ``count`` elements."""
    return HEADER.size + 4 * count


def pack_header(layer: int | None, count: int) -> bytes:
    """The 12 header bytes. Raises TraceError if ``layer`` or ``count`` does not fit into 32 bits."""
    if layer is not None and not 0 <= layer < WHOLE_MODEL:
        raise TraceError(f"layer {layer} does not fit into an APRT file, expected 0 to {WHOLE_MODEL - 1}")
    if count > MAX_ELEMENTS:
        raise TraceError(
            f"a tensor of {count} elements does not fit into an APRT file, which holds at most {MAX_ELEMENTS}; trace fewer positions"
        )
    return HEADER.pack(MAGIC, WHOLE_MODEL if layer is None else layer, count)


def read_header(path: Path) -> tuple[int | None, int]:
    """The layer (None for a whole-model stage) and the element count, checked against the file's size.

    Raises TraceError for a file that cannot be opened, has another magic, or another size than its header says.
    """
    head, size = _read_start(os.fspath(path), HEADER.size)
    return _checked_header(path, head, size)


def _read_start(path: str, count: int) -> tuple[bytes, int]:
    """The first ``count`` bytes of a file, fewer where it has no more, and its size. Raises TraceError for what cannot be read."""
    try:
        # A trace has thousands of small files, and Python's own files cost more than what these hold. Not to wait, for a pipe's writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            state = os.fstat(descriptor)
            if stat.S_ISFIFO(state.st_mode):
                raise TraceError(f"{path}: is a pipe, expected a file")
            return os.read(descriptor, count), state.st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name, which a damaged manifest can hold
        raise TraceError(f"{path!r}: cannot be read: {error}") from None


def _checked_header(path: str | Path, head: bytes, size: int) -> tuple[int | None, int]:
    """As ``read_header``, of a file of ``size`` bytes that begins with ``head``."""
    if len(head) < HEADER.size:
        raise TraceError(f"{path}: {len(head)} bytes, too short for an APRT file, whose header alone has {HEADER.size}; dump it again")
    magic, layer, count = HEADER.unpack_from(head)
    if magic != MAGIC:
        arrays = "; it looks like a file of NumPy or torch: aprgraph.Trace.write makes a trace of arrays" if magic in _ARRAYS else ""
        if not arrays and size % 4 == 0 and not magic.isascii():
            arrays = "; if it holds raw float32 numbers, save them as .npy, in their shape (numpy.fromfile, numpy.save)"
        raise TraceError(f"{path}: begins with {magic!r}, expected {MAGIC!r}; not an APRT file{arrays}")
    if size != file_size(count):
        raise TraceError(
            f"{path}: {size} bytes, expected {file_size(count)} for the {count} elements that its header names; "
            "truncated or damaged, dump it again"
        )
    return (None if layer == WHOLE_MODEL else layer), count


def read_aprt(path: str | Path) -> tuple[int | None, F32]:
    """The layer and the elements, flat and read-only: memory-mapped, but of files of at most SMALL bytes. Raises TraceError."""
    path = os.fspath(path)
    head, size = _read_start(path, SMALL)
    layer, count = _checked_header(path, head, size)
    if len(head) == size:
        return layer, np.frombuffer(head, "<f4", count, HEADER.size)
    # By the path as a string: of a Path, numpy looks up every folder for symbolic links.
    return layer, np.memmap(path, dtype="<f4", mode="r", offset=HEADER.size, shape=(count,))


def give_back(values: F32) -> None:
    """Take the pages under ``values``, a part of what ``read_aprt`` gave, out of this process's memory; other arrays are left alone.

    They stay in the system's cache, and come back if they are read again.
    """
    if not isinstance(values, np.memmap) or values.mode != "r" or not values.size:
        return
    owner: object = values.base
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        first, last = np.lib.array_utils.byte_bounds(values)
        start = first - np.frombuffer(owner, np.uint8).ctypes.data
        aligned = start - start % mmap.PAGESIZE
        owner.madvise(mmap.MADV_DONTNEED, aligned, last - first + start - aligned)


def write_aprt(path: str | Path, layer: int | None, values: F32) -> None:
    """Write ``values`` (f32, any shape) to ``path``, in place of what is there once all is written.

    Raises TraceError if the disk is full or the place cannot be written. What was there stays then, and nothing new; so too when a
    signal ends the process in order. One that was killed may leave a part of a new file, which is no APRT file: its header says how
    long it is.
    """
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    header = pack_header(layer, flat.size)
    # Plain system calls on plain strings, no context managers: a trace has hundreds of small files, and this is most of what each costs.
    place = os.fspath(path)
    name = temporary_name(place) if os.path.lexists(place) else place
    note(name)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            _write_all(descriptor, header, flat.data.cast("B") if flat.size else memoryview(b""))
            if name != place:
                put_in_place(name, place, alone=True)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TraceError.unwritable(path, error) from None
    finally:
        forget(name)


def _write_all(descriptor: int, header: bytes, data: memoryview) -> None:
    """Both, in one call where the system takes them at once (it takes at most 2 GiB, and may take less)."""
    rest = [memoryview(header), data]
    while rest:
        written = os.writev(descriptor, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]


def relative_path(stage: str, layer: int | None, step: int = 0) -> str:
    """Where a tensor lies inside a trace directory: ``layer-<N>/<stage>.bin``, later steps under ``step-<i>/``."""
    name = f"{stage}.bin" if layer is None else f"layer-{layer}/{stage}.bin"
    return name if step == 0 else f"step-{step}/{name}"


def whose(layer: int | None) -> str:
    """The layer of an APRT header, in words."""
    return "the whole model" if layer is None else f"layer {layer}"

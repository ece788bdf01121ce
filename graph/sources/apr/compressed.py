"""`.apr` files of which all but the header is one compressed stream: they are unpacked to a temporary file.

As paiml/aprender reads them (realizar, `decompress_apr_data`): behind the 64 bytes of the header lie a u32 with the
size and an LZ4 block of it, or a zstd frame; offsets count in the file as it is without compression.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Literal

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.room import available_memory

Compression = Literal["LZ4", "zstd"]
_PACKAGES: dict[Compression, tuple[str, str]] = {"LZ4": ("lz4", "lz4.block"), "zstd": ("zstandard", "zstandard")}
_SIZE_BYTES = 4
_CHUNK = 1 << 20
#: What an LZ4 block can expand to at most, for each of its bytes; and what is believed of a zstd frame.
_MOST_BY_BYTE = {"LZ4": 255, "zstd": 4096}
#: Room that is left to others.
_SPARE = 1 << 30
_AGAIN = "the file is damaged: copy or download it again"


def unpack(file: MappedFile, start: int, kind: Compression) -> MappedFile:
    """The same file with what lies from byte ``start`` on unpacked, in a temporary file that nobody else sees.

    Raises UnsupportedModelError where the package that unpacks is not installed, ModelFileError for a stream that is
    damaged, and ModelError where there is no room.
    """
    package, module = _PACKAGES[kind]
    try:
        library = importlib.import_module(module)
    except ImportError:
        raise UnsupportedModelError(
            f"{file.path}: an .apr file compressed by {kind}, for which the Python package {package} is needed: pip install {package}; or "
            "write it again with `apr` without compression"
        ) from None
    folder = tempfile.gettempdir()
    believed, most = (file.size - start) * _MOST_BY_BYTE[kind], shutil.disk_usage(folder).free - _SPARE
    with tempfile.TemporaryFile(dir=folder) as target:
        target.write(file.mapping[:start])
        parts = _lz4_parts(file, start, library, most) if kind == "LZ4" else _zstd_parts(file, start, library)
        for part in parts:
            unpacked = target.tell() + len(part) - start
            if unpacked > believed:
                raise ModelFileError(f"{file.path}: {file.size} bytes become more than {believed}, as no weights do; {_AGAIN}")
            if unpacked > most:
                raise _no_room(file, "more than " + _gigabytes(most), f"in {folder}")
            target.write(part)
        target.flush()
        return MappedFile(file.path, "an .apr file", "an .apr file", target.fileno())


def _lz4_parts(file: MappedFile, start: int, library: Any, most: int) -> Iterator[bytes]:
    size = int.from_bytes(file.mapping[start : start + _SIZE_BYTES], "little")
    packed = file.size - start - _SIZE_BYTES
    if packed <= 0 or size > packed * _MOST_BY_BYTE["LZ4"]:
        raise ModelFileError(f"{file.path}: {max(packed, 0)} bytes of LZ4 cannot become {size}, as the file says; {_AGAIN}")
    available = available_memory()
    if size > most or (available is not None and size + _SPARE > available):
        raise _no_room(file, _gigabytes(size), "in memory and on the disk")
    try:
        yield library.decompress(file.mapping[start + _SIZE_BYTES :], uncompressed_size=size)
    except (library.LZ4BlockError, ValueError) as error:
        raise ModelFileError(f"{file.path}: its LZ4 block cannot be unpacked ({shown(str(error))}); {_AGAIN}") from None


def _zstd_parts(file: MappedFile, start: int, library: Any) -> Iterator[bytes]:
    try:
        with library.ZstdDecompressor().stream_reader(_from(file, start), closefd=False) as stream:
            while part := stream.read(_CHUNK):
                yield part
    except library.ZstdError as error:
        raise ModelFileError(f"{file.path}: its zstd frame cannot be unpacked ({shown(str(error))}); {_AGAIN}") from None


def _from(file: MappedFile, start: int) -> IO[bytes]:
    file.mapping.seek(start)
    return file.mapping  # type: ignore[return-value]  # it has read(), which is all that is asked of it


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _no_room(file: MappedFile, needed: str, where: str) -> ModelError:
    return ModelError(
        f"{file.path}: its {file.size} compressed bytes become {needed}, for which there is no room {where}; write it again with `apr` "
        "without compression, or set TMPDIR to a folder with room"
    )

"""Reads the header of a GGUF file: metadata and tensor list, without touching tensor data.

The `gguf` package has a reader too; it is the witness in the tests. This one exists because a tool that is given broken
files must check every count and offset before it allocates or follows it, and must open a file of 50,000 tokens in
milliseconds. Arrays stay undecoded until they are asked for. Format: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import BLOCK_FORMATS, format_of_ggml_type
from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata, Scalar
from aprgraph.graph.sources.file_kind import HEAD_BYTES, folder_in_words, kind_of_bytes, kind_of_file
from aprgraph.graph.sources.gguf_cursor import ARRAY, BOOL, SCALARS, STRING, Cursor
from aprgraph.graph.sources.mapped_file import SAMPLES, MappedFile
from aprgraph.graph.sources.room import require_room
from aprgraph.graph.sources.source import Part, TensorFault, TensorInfo
from aprgraph.graph.weight_pieces import read_pieces
from aprgraph.graph.words import shape_text

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
#: Bytes of a metadata key and of a tensor name: the first is the format's own limit; ggml refuses names of 64 bytes and more.
_MAX_KEY, _MAX_NAME = 65535, 63
#: Bytes of a text in the metadata, the longest of which is a whole tokenizer.json (33 MB for 256,000 tokens), and numbers of keys and
#: tensors: more than any model has, and few enough to be read in seconds.
_MAX_TEXT, _MAX_KEYS, _MAX_TENSORS = 256 << 20, 1 << 16, 1 << 17
_DEFAULT_ALIGNMENT = 32
#: Types that ggml has no more, and what to take: two of May 2023, and rows side by side for ARM, which it orders so itself since
#: November 2024 (ggml.h).
_DROPPED = {
    4: ("Q4_2", "Q4_0"), 5: ("Q4_3", "Q4_1"),
    **{31 + place: (f"Q4_0_{shape}", "Q4_0") for place, shape in enumerate(("4_4", "4_8", "8_8"))},
    **{36 + place: (f"IQ4_NL_{shape}", "IQ4_NL") for place, shape in enumerate(("4_4", "4_8", "8_8"))},
}  # fmt: skip
#: Types that Microsoft's bitnet.cpp, a fork, has under these numbers, in files of these architectures. The last is now also ggml's MXFP4,
#: which takes more bytes.
_OF_BITNET_CPP = {36: "I2_S", 37: "I8_S", 38: "TL1", 39: "TL2"}
_MXFP4 = 39
_BITNET = "bitnet"


class GGUFFile:
    """A GGUF file: ``metadata``, ``tensors`` by name, and the bytes, memory-mapped.

    ``faults`` collects what is wrong with single tensors, which are then left out, instead of the first being raised: for whoever
    wants to know all of it. One part of a model in several files is opened as it is (split_gguf.py takes them all).

    Raises ModelFileError or UnsupportedModelError.
    """

    kind = "GGUF file"
    notices: tuple[str, ...] = ()
    incomplete = "the conversion was incomplete"

    def __init__(self, path: str | Path, faults: list[TensorFault] | None = None) -> None:
        self.path = Path(path)
        self.faults = faults
        if self.path.is_dir():
            raise ModelFileError(f"{self.path}: ", folder_in_words(self.path))
        self._file = MappedFile(self.path, "a GGUF file", "a .gguf file")
        head = self.mapping[:HEAD_BYTES]
        if not head.startswith(MAGIC) or kind_of_bytes(head) is not None:
            raise _not_readable(self.path, head)
        cursor = Cursor(self.mapping, self.path)
        cursor.take(len(MAGIC), "the magic")
        self.version = cursor.u32("the version")
        if self.version not in _VERSIONS:
            raise ModelFileError(f"{self.path}: GGUF version {self.version}, expected 2 or 3; convert the model again")
        tensor_count = cursor.u64("the tensor count")
        key_count = cursor.u64("the metadata count")
        cursor.count(tensor_count, 32, "the tensor count")
        cursor.count(key_count, 13, "the metadata count")
        for what, count, most in (("tensors", tensor_count, _MAX_TENSORS), ("metadata keys", key_count, _MAX_KEYS)):
            if count > most:
                raise ModelFileError(f"{self.path}: has {count} {what}, expected at most {most}; the file is damaged, or made to take long")
        self.metadata = Metadata(self.path, self._read_metadata(cursor, key_count))
        self.tensors = self._read_tensors(cursor, tensor_count)
        self._end = max((info.offset + info.nbytes for info in self.tensors.values()), default=self.size)
        self._made: tuple[str, npt.NDArray[np.uint8]] | None = None

    # -- header -------------------------------------------------------------------------------------------------------

    def _read_metadata(self, cursor: Cursor, count: int) -> dict[str, object]:
        values: dict[str, object] = {}
        for index in range(count):
            key = cursor.text(f"metadata key {index}", _MAX_KEY)
            if key in values:
                raise ModelFileError(f"{self.path}: metadata key {shown(key)} appears twice; the file is damaged")
            values[key] = self._read_value(cursor, cursor.u32(f"the type of {shown(key)}"), key)
        return values

    def _read_value(self, cursor: Cursor, code: int, key: str) -> object:
        what = f"the value of {shown(key)}"
        if code == STRING:
            return cursor.text(what, _MAX_TEXT)
        if code in SCALARS:
            return cursor.scalar(code, what)
        if code == ARRAY:
            return self._skip_array(cursor, what)
        raise ModelFileError(
            f"{self.path}: metadata key {shown(key)} has the unknown value type {code}, expected 0 to 12; the file is damaged"
        )

    def _skip_array(self, cursor: Cursor, what: str) -> LazyArray:
        code = cursor.u32(what)
        length = cursor.u64(what)
        start = cursor.position
        if code == STRING:
            cursor.count(length, 8, what)
            # The cursor's own methods would take most of the time of opening a file, whose vocabulary has 10^5 entries.
            unpack = struct.Struct("<Q").unpack_from
            position, last, data = start, cursor.size - 8, cursor.data
            for index in range(length):
                if position > last:
                    cursor.position = min(position, cursor.size)
                    cursor.take(position + 8 - cursor.position, f"{what}, entry {index} of {length}")
                position += 8 + unpack(data, position)[0]
            cursor.take(position - start, what)
        elif code in SCALARS:
            size = struct.calcsize(SCALARS[code])
            cursor.count(length, size, what)
            cursor.take(length * size, what)
        elif code == ARRAY:
            raise ModelFileError(
                f"{self.path}: {what} is an array of arrays, expected an array of numbers or strings (ggml reads no others)"
            )
        else:
            raise ModelFileError(f"{self.path}: {what} is an array of the unknown type {code}, expected 0 to 12; the file is damaged")
        return LazyArray(self, code, length, start)

    def _read_tensors(self, cursor: Cursor, count: int) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}  # with offsets from where the data start
        for index in range(count):
            name = cursor.text(f"the name of tensor {index}", _MAX_NAME)
            what = f"the entry of tensor {name!r}"
            rank = cursor.u32(what)
            if not 1 <= rank <= _MAX_DIMS:
                raise ModelFileError(f"{self.path}: tensor {name!r} has {rank} dimensions, expected 1 to {_MAX_DIMS}")
            dims = tuple(cursor.u64(what) for _ in range(rank))[::-1]
            code = cursor.u32(what)
            offset = cursor.u64(what)
            with self._tolerated(name):
                if name in found:
                    raise ModelFileError(f"{self.path}: tensor {name!r} appears twice; the file is damaged")
                fmt = self._format(name, code)
                found[name] = TensorInfo(name, dims, fmt, offset, self._tensor_bytes(name, dims, fmt))
        data_start = self._data_start(cursor.position)
        tensors = [replace(info, offset=data_start + info.offset) for info in found.values()]
        misplaced = self._check_placement(tensors, data_start)
        return {info.name: info for info in tensors if info.name not in misplaced}

    @contextmanager
    def _tolerated(self, name: str, info: TensorInfo | None = None) -> Iterator[None]:
        """Where faults are collected, an error within is one of the tensor ``name``."""
        try:
            yield
        except (ModelFileError, UnsupportedModelError) as error:
            if self.faults is None:
                raise
            self.faults.append(TensorFault(name, error, info))

    def _format(self, name: str, code: int) -> BlockFormat:
        fmt = format_of_ggml_type(code)
        if fmt is None and code in _OF_BITNET_CPP and self._is_bitnet:
            raise self._of_bitnet_cpp(name, code)
        if fmt is None and code in _DROPPED:
            dropped, usual = _DROPPED[code]
            raise UnsupportedModelError(
                f"{self.path}: tensor {name!r} has the block type {dropped} ({code}), which llama.cpp does not read any more either: get "
                f"the model in {usual}"
            )
        if fmt is None:
            raise UnsupportedModelError(
                f"{self.path}: tensor {name!r} has the block type {_type_name(code)}; aprgraph decodes "
                f"{', '.join(BLOCK_FORMATS)}, and what the gguf package can dequantise; requantise the model to one of them"
            )
        return fmt

    @property
    def _is_bitnet(self) -> bool:
        return str(self.metadata.get("general.architecture", "")).startswith(_BITNET)

    def _of_bitnet_cpp(self, name: str, code: int) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.path}: tensor {name!r} has the block type {_OF_BITNET_CPP[code]} ({code}) of bitnet.cpp, whose layout depends on "
            "the processor that it was packed for; give the checkpoint of Hugging Face with the packed weights, or a GGUF file of "
            "llama.cpp's converter in F16, BF16, TQ1_0 or TQ2_0"
        )

    def _tensor_bytes(self, name: str, dims: tuple[int, ...], fmt: BlockFormat) -> int:
        shape = shape_text(dims)
        if 0 in dims:
            raise ModelFileError(f"{self.path}: tensor {name!r} is {shape}, expected dimensions of at least 1; the file is damaged")
        if dims[-1] % fmt.elements:
            raise ModelFileError(
                f"{self.path}: tensor {name!r} has rows of {dims[-1]} elements, expected a multiple of {fmt.elements} for {fmt.name}"
            )
        elements = 1
        for dim in dims:
            elements *= dim
        if elements // fmt.elements * fmt.block_bytes > self.size:
            raise ModelFileError(
                f"{self.path}: tensor {name!r} of {shape} {fmt.name} elements does not fit into a file of {self.size} bytes; "
                "the file is damaged or truncated"
            )
        return elements // fmt.elements * fmt.block_bytes

    def _data_start(self, header_end: int) -> int:
        alignment = self.metadata.integer("general.alignment", _DEFAULT_ALIGNMENT)
        if alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise ModelFileError(f"{self.path}: general.alignment is {alignment}, expected a power of two from 8 to 1048576")
        self.alignment = alignment
        return (header_end + alignment - 1) // alignment * alignment

    def _check_placement(self, tensors: Iterable[TensorInfo], data_start: int) -> set[str]:
        """The names of those that lie where they cannot, where faults are collected."""
        self.data_start = data_start
        misplaced: set[str] = set()
        previous: TensorInfo | None = None
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            misplaced.add(tensor.name)
            with self._tolerated(tensor.name, tensor):
                if (tensor.offset - data_start) % self.alignment:
                    raise ModelFileError(
                        f"{self.path}: tensor {tensor.name!r} begins at byte {tensor.offset}, which is not a multiple of the "
                        f"file's alignment of {self.alignment} from the start of the data"
                    )
                if tensor.offset + tensor.nbytes > self.size:
                    raise ModelFileError(
                        f"{self.path}: tensor {tensor.name!r} ends at byte {tensor.offset + tensor.nbytes}, past the end of the "
                        f"file ({self.size} bytes); the file is truncated: copy or download it again"
                    )
                if previous is not None and tensor.offset < previous.offset + previous.nbytes:
                    if self._is_bitnet and previous.format == format_of_ggml_type(_MXFP4):
                        raise self._of_bitnet_cpp(previous.name, _MXFP4)
                    raise ModelFileError(f"{self.path}: tensors {previous.name!r} and {tensor.name!r} overlap; the file is damaged")
                previous = tensor
                misplaced.remove(tensor.name)
        return misplaced

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    @property
    def details(self) -> Mapping[str, object]:
        """See ``Source.details``."""
        return {"version": self.version}

    @property
    def parts(self) -> tuple[Part]:
        """The file itself, as the only part."""
        return (Part(self.path, self.size, max(0, self.size - -(-self._end // self.alignment) * self.alignment)),)

    @property
    def mapping(self) -> mmap.mmap:
        """The file's bytes, memory-mapped."""
        return self._file.mapping

    def wrong_checksum(self) -> str | None:
        """See ``Source.wrong_checksum``; GGUF has none."""
        return None

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as u8 [rows, bytes of a row] (rows: all dims but the innermost); copied where experts lie one by one."""
        if tensor.in_pieces is None:
            return self.stored_bytes(tensor)
        made = self._made  # of this call alone: another thread may ask for another tensor
        if made is None or made[0] != tensor.name:
            made = self._made = None  # its memory first
            require_room(self.path, tensor.name, tensor.nbytes)
            made = self._made = tensor.name, np.concatenate([piece.blocks for piece in tensor.in_pieces.find()])
        return made[1]

    def stored_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor that lies as it is in the file, u8 [rows, bytes of a row], without copying."""
        return self._file.view(tensor.offset, tensor.nbytes).reshape(-1, tensor.row_bytes)

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """See ``Source.read``."""
        if tensor.in_pieces is None:
            self._file.read(tensor.offset + start, into)
        else:
            read_pieces(tensor.in_pieces, tensor.row_bytes, start, into.reshape(-1))

    def release(self) -> None:
        """Give back the memory of all pages that were read; the next touch reads them again, if need be from the disk."""
        self._made = None
        self._file.release()

    @property
    def fingerprint_samples(self) -> int:
        """See ``Source.fingerprint_samples``."""
        return SAMPLES

    def fingerprint(self) -> str:
        """See ``Source.fingerprint``."""
        return self._file.fingerprint(self.data_start)


class LazyArray:
    """An array in the metadata, decoded when asked for."""

    def __init__(self, file: GGUFFile, code: int, length: int, start: int) -> None:
        self._file, self._code, self._length, self._start = file, code, length, start

    def __len__(self) -> int:
        return self._length

    def values(self) -> list[Scalar] | list[bytes]:
        """The elements: numbers, or the raw bytes of strings (which need not be valid UTF-8)."""
        if self._code == STRING:
            # Every length was checked when the file was opened, and the cursor's methods would take most of the time.
            unpack, data, position = struct.Struct("<Q").unpack_from, self._file.mapping, self._start
            texts: list[bytes] = []
            for _ in range(self._length):
                end = position + 8 + unpack(data, position)[0]
                texts.append(data[position + 8 : end])
                position = end
            return texts
        cursor = Cursor(self._file.mapping, self._file.path)
        cursor.position = self._start
        layout = np.dtype(SCALARS[self._code][0] + SCALARS[self._code][1])
        start = cursor.take(self._length * layout.itemsize, "an array")
        numbers = np.frombuffer(self._file.mapping, dtype=layout, count=self._length, offset=start)
        return list(numbers.astype(bool).tolist() if self._code == BOOL else numbers.tolist())


def _not_readable(path: Path, head: bytes) -> ModelFileError:
    kind = kind_of_file(path, head)
    if kind is None:
        return ModelFileError(f"{path}: not a GGUF file: begins with {head[: len(MAGIC)]!r}, expected {MAGIC!r}")
    what = f"this is {kind.what}" if head.startswith(MAGIC) else f"not a GGUF file but {kind.what}"
    return ModelFileError(f"{path}: {what}; ", kind.advice)


def _type_name(code: int) -> str:
    """The ggml name of a tensor type, for messages."""
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 -- slow import, needed for one message

    try:
        return f"{GGMLQuantizationType(code).name} ({code})"
    except ValueError:
        return f"number {code}, which this version of the gguf package does not know"

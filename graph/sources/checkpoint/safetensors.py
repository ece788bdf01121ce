"""Reads the header of a safetensors file, and gives its tensors' bytes where they lie.

The `safetensors` package has a reader too; it made the files of the tests. This one checks every number against the
end of the file before it is followed, and names the tensor. Format: https://huggingface.co/docs/safetensors: u64 size
of the header, a JSON object from names to dtype, shape and [begin, end) counted from the header's end, then the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.file_kind import HEAD_BYTES, is_safetensors, kind_of_bytes
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.source import Misreadings, Radius, no_misreadings
from aprgraph.graph.words import shape_text

#: The format's own limit on the header, in bytes.
_MOST_HEADER = 100_000_000
_MOST_DIMS = 8
#: DeepSpeed's ZeRO stage 3 leaves a tensor of size 0 in each process for weights that are spread over all of them.
EMPTY = (
    "a model that was saved while its weights were spread over processes (ZeRO-3, FSDP) has tensors of size 0: gather them when it is "
    "saved; else the file is damaged"
)
#: Bits of an element, by dtype.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "F4": 4,
}  # fmt: skip


class TensorFile(Protocol):
    """A file that tensors are stored in."""

    path: Path
    mapped: MappedFile

    def bytes_of(self, tensor: StoredTensor) -> npt.NDArray[np.uint8]:
        """The bytes of one of its tensors in the tensor's dtype."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, or of another. ``offset`` counts from the start of the file."""

    file: TensorFile
    name: str
    dtype: str
    dims: tuple[int, ...]
    offset: int
    nbytes: int
    #: The packing that the tensor is decoded from whenever its bytes, which are not those at ``offset``, are asked for.
    decoded_from: str = ""
    #: Of rows from a first to an end, how far each element may be from the one that was packed.
    radius: Radius | None = field(default=None, compare=False)
    #: What it is to readers who make a mistake.
    misreadings: Misreadings = field(default=no_misreadings, compare=False)

    @property
    def is_decoded(self) -> bool:
        """Whether the bytes are made."""
        return bool(self.decoded_from)

    def view(self) -> npt.NDArray[np.uint8]:
        """Its bytes, without copying."""
        return self.file.bytes_of(self)


class SafetensorsFile:
    """A safetensors file: ``tensors`` by name, and their bytes, memory-mapped. Raises ModelFileError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapped = MappedFile(path, "a safetensors file", "a .safetensors file")
        size = self.mapped.size
        head = self.mapped.mapping[:HEAD_BYTES]
        if not is_safetensors(head):
            kind = kind_of_bytes(head)
            what = f"begins with {head[:9]!r}" if kind is None else f"this is {kind.what}"
            raise ModelFileError(f"{path}: not a safetensors file: {what}; download the file again")
        length = int.from_bytes(head[:8], "little")
        if length > min(size - 8, _MOST_HEADER):
            raise ModelFileError(
                f"{path}: its header of {length} bytes does not fit into a file of {size} bytes; the file is truncated or damaged: "
                "download it again"
            )
        self.data_start = 8 + length
        header = _parse(path, self.mapped.mapping[8 : self.data_start])
        said = header.get("__metadata__")
        #: The library whose tensors it holds, as it says: `pt`, `mlx`; "" where it does not.
        self.format = str(said.get("format", "")) if isinstance(said, dict) else ""
        self.tensors = self._read_tensors(header)

    def _read_tensors(self, header: dict[str, Any]) -> dict[str, StoredTensor]:
        found = {name: self._read_entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
        previous: StoredTensor | None = None
        for tensor in sorted(found.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
            if previous is not None and tensor.offset < previous.offset + previous.nbytes:
                raise ModelFileError(f"{self.path}: tensors {shown(previous.name)} and {shown(tensor.name)} overlap; the file is damaged")
            previous = tensor
        return found

    def _read_entry(self, name: str, entry: Any) -> StoredTensor:
        what = f"{self.path}: tensor {shown(name)}"
        if not isinstance(entry, dict):
            raise ModelFileError(f"{what} is {shown(entry)} in the header, expected dtype, shape and data_offsets; the file is damaged")
        values: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
        dtype, dims, offsets = values
        if not isinstance(dtype, str) or dtype not in BITS:
            raise ModelFileError(f"{what} has the dtype {shown(dtype)}, expected one of {', '.join(BITS)}; the file is damaged")
        if not _are_counts(dims) or len(dims) > _MOST_DIMS:
            raise ModelFileError(f"{what} has the shape {shown(dims)}, expected a list of at most {_MOST_DIMS} sizes; the file is damaged")
        if 0 in dims:
            raise ModelFileError(f"{what} has the shape {shown(dims)}, expected dimensions of at least 1; {EMPTY}")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ModelFileError(f"{what} has the data_offsets {shown(offsets)}, expected where it begins and ends; the file is damaged")
        begin, end = offsets
        if self.data_start + end > self.mapped.size:
            raise ModelFileError(
                f"{what} ends at byte {self.data_start + end}, past the end of the file ({self.mapped.size} bytes); the file is truncated: "
                "copy or download it again"
            )
        expected = math.prod(dims) * BITS[dtype]
        if expected != (end - begin) * 8:
            raise ModelFileError(
                f"{what} of {shape_text(dims) or 'one'} {dtype} has {end - begin} bytes, expected {expected // 8}; the file is damaged"
            )
        return StoredTensor(self, name, dtype, tuple(dims), self.data_start + begin, end - begin)

    def bytes_of(self, tensor: StoredTensor) -> npt.NDArray[np.uint8]:
        """The bytes of one of its tensors, without copying."""
        return self.mapped.view(tensor.offset, tensor.nbytes)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    """The JSON object of a header, in which no name appears twice."""
    try:
        header = parse_json(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its header is no JSON ({error}); the file is damaged: download it again") from None
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: its header is {shown(header)}, expected a JSON object; the file is damaged")
    return header

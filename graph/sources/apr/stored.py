"""The tensors of an `.apr` file as they are stored, and their bytes: in place, or decoded to float32."""

from __future__ import annotations

import math
import weakref

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.apr.layout import Entry
from aprgraph.graph.sources.apr.packings import Packing, find_storage, name_of_code
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.graph.words import shape_text

_MOST_DIMS = 4
_CHUNK = 1 << 20


class AprTensors:
    """Gives the bytes of tensors by the names that the file has for them."""

    def __init__(self, mapped: MappedFile) -> None:
        self.path, self.mapped = mapped.path, mapped
        #: What of the file is decoded, by name.
        self.packings: dict[str, Packing] = {}
        self._entries: dict[str, Entry] = {}
        self._decoded: weakref.WeakValueDictionary[str, npt.NDArray[np.float32]] = weakref.WeakValueDictionary()

    def add(self, entry: Entry, dims: tuple[int, ...]) -> StoredTensor:
        """The tensor of an entry that has ``dims``, outermost first. Raises ModelFileError or UnsupportedModelError."""
        where, shape = f"{self.path}: tensor {shown(entry.name)}", shape_text(entry.dims)
        if 0 in dims or len(dims) > _MOST_DIMS:
            raise ModelFileError(f"{where} is {shape}, expected 1 to {_MOST_DIMS} dimensions of at least 1; the file is damaged")
        if entry.name in self._entries:
            raise ModelFileError(f"{where} appears twice; the file is damaged")
        storage = find_storage(entry.code, dims, entry.nbytes)
        if storage is None:
            raise UnsupportedModelError(
                f"{where} of {shape} elements has {entry.nbytes} bytes of {name_of_code(entry.code)}; expected as many as F32, F16, BF16, "
                "F64, Q4_K, Q6_K, Q8_0, AprQ4 or AprQ8 take; convert the model again"
            )
        end = entry.offset + entry.nbytes
        if end > self.mapped.size:
            raise ModelFileError(
                f"{where} ends at byte {end}, past the end of the file ({self.mapped.size} bytes); the file is truncated: copy or download "
                "it again"
            )
        self._entries[entry.name] = entry
        fmt, packing = storage
        if packing is not None:
            self.packings[entry.name] = packing
        nbytes = entry.nbytes if packing is None else 4 * math.prod(dims)
        return StoredTensor(self, entry.name, fmt.name, dims, entry.offset, nbytes)

    def place_of(self, entry: Entry) -> TensorInfo | None:
        """Where a tensor that could not be added should lie, if its size fits its dims."""
        if 0 in entry.dims or find_storage(entry.code, entry.dims, entry.nbytes) is None:
            return None
        return TensorInfo(entry.name, entry.dims, BLOCK_FORMATS["F32"], entry.offset, entry.nbytes)

    @property
    def entries(self) -> list[Entry]:
        """The entries of the tensors that were added, in the order of the file."""
        return sorted(self._entries.values(), key=lambda entry: entry.offset)

    def bytes_of(self, tensor: StoredTensor) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor in its dtype: the file's own, or decoded, as long as somebody holds them."""
        packing = self.packings.get(tensor.name)
        if packing is None:
            return self.mapped.view(tensor.offset, tensor.nbytes)
        decoded = self._decoded.get(tensor.name)
        if decoded is None:
            decoded = np.empty(math.prod(tensor.dims), np.float32)
            for start in range(0, decoded.size, _CHUNK):
                part = decoded[start : start + _CHUNK]
                part[:] = self._decode(tensor, packing, start, part.size, mapped=True)
            self._decoded[tensor.name] = decoded
        return decoded.view(np.uint8)

    def read(self, tensor: StoredTensor, start: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill ``into`` with those bytes from ``start`` on, by the system's calls; what is decoded is decoded in
        part.
        """
        packing = self.packings.get(tensor.name)
        if packing is None:
            self.mapped.read(tensor.offset + start, into)
            return
        first, last = start // 4, -(-(start + into.size) // 4)
        decoded = self._decode(tensor, packing, first, last - first, mapped=False).view(np.uint8)
        into.reshape(-1)[:] = decoded[start - 4 * first :][: into.size]

    def _decode(self, tensor: StoredTensor, packing: Packing, first: int, count: int, *, mapped: bool) -> npt.NDArray[np.float32]:
        """``count`` elements from the ``first`` on."""
        unit, stop = first // packing.elements, -(-(first + count) // packing.elements)
        head = self._raw(tensor.offset, packing.head, mapped=mapped)
        start = tensor.offset + packing.head + unit * packing.nbytes
        units = self._raw(start, (stop - unit) * packing.nbytes, mapped=mapped).reshape(-1, packing.nbytes)
        skipped = first - unit * packing.elements
        return np.ascontiguousarray(packing.decode(units, head)).reshape(-1)[skipped : skipped + count]

    def _raw(self, offset: int, count: int, *, mapped: bool) -> npt.NDArray[np.uint8]:
        if mapped:
            return self.mapped.view(offset, count)
        raw = np.empty(count, np.uint8)
        self.mapped.read(offset, raw)
        return raw

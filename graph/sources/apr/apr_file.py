"""A model file of `apr`, version 2, as a Source: its tensors and numbers under GGUF's names.

Files that `apr` made from GGUF keep GGUF's names of tensors in most families, and with them the order of the rows of q
and k.
"""

from __future__ import annotations

import math
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import OVERRIDES
from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.message import Message
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.sources.apr.keys import AprKeys
from aprgraph.graph.sources.apr.layout import ALIGNMENT, FOOTER_BYTES, MAGICS, Entry, Layout
from aprgraph.graph.sources.apr.packings import Packing, find_storage, name_of_code
from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_bytes
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.source import Part, TensorFault, TensorInfo
from aprgraph.graph.words import counted, listed, shape_text

__all__ = ["MAGICS", "AprFile"]

_LAYER = re.compile(r"blk\.\d+\.")
_GLOBAL = ("token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight", "rope_factors_long.weight",
           "rope_factors_short.weight")  # fmt: skip
#: `apr` writes the copy of a tied head under the name that it has in a checkpoint, also among GGUF's names.
_OTHER_NAMES = {"lm_head.weight": "output.weight"}
_EXPERT_DIMS = 3
_MOST_DIMS = 4
#: Kernels take weights at any multiple of that, as GGUF files may have them; old .apr files have them anywhere.
_KERNELS_ALIGNMENT = 8
_CHUNK = 1 << 20
_SUMMED = 1 << 24
_NAMED = 3


class AprFile:
    """An `.apr` file: ``metadata``, ``tensors`` by name, and the bytes, memory-mapped.

    Weights whose layout no kernel has are decoded to float32 when they are read. ``notices`` say what of the file is unusual.
    ``faults`` collects what is wrong with single tensors, which are then left out, instead of the first being raised.

    Raises ModelFileError or UnsupportedModelError.
    """

    kind = "apr file"
    incomplete = "the conversion was incomplete"

    def __init__(self, path: str | Path, faults: list[TensorFault] | None = None) -> None:
        self.path = Path(path)
        self.stem = self.path.stem
        self._faults = faults
        self._file = MappedFile(self.path, "an .apr file", "an .apr file")
        head = self._file.mapping[:HEAD_BYTES]
        if not head.startswith(MAGICS):
            kind = kind_of_bytes(head)
            what = f"begins with {head[:4]!r}, expected {MAGICS[0]!r}" if kind is None else Message(f"this is {kind.what}; ", kind.advice)
            raise ModelFileError(f"{self.path}: not an .apr file: ", what)
        self._layout = Layout(self._file)
        self._keys = AprKeys(self.path, self._layout.metadata)
        self.metadata = Metadata(self.path, self._keys.values)
        self._packings: dict[str, Packing] = {}
        self._stored: dict[str, Entry] = {}
        self._decoded: weakref.WeakValueDictionary[str, npt.NDArray[np.float32]] = weakref.WeakValueDictionary()
        self.tensors = self._read_tensors()
        self.notices = (*self._layout.notices, *self._notices())

    # -- the index ----------------------------------------------------------------------------------------------------

    def _read_tensors(self) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for entry in self._layout.entries:
            info = None
            try:
                info = self._tensor(entry)
                self._check_place(entry, info, found)
            except (ModelFileError, UnsupportedModelError) as error:
                if self._faults is None:
                    raise
                # What it would take in the file, which is what the place of a fault is about.
                self._faults.append(TensorFault(entry.name, error, info and replace(info, nbytes=entry.nbytes)))
                continue
            if info is not None:
                found[info.name], self._stored[info.name] = info, entry
        self._check_overlaps(found)
        return found

    def _check_place(self, entry: Entry, info: TensorInfo | None, found: Mapping[str, TensorInfo]) -> None:
        if info is not None and info.name in found:
            raise ModelFileError(f"{self.path}: tensor {shown(entry.name)} appears twice, as {info.name!r}; the file is damaged")
        end = entry.offset + entry.nbytes
        if end > self.size:
            raise ModelFileError(
                f"{self.path}: tensor {shown(entry.name)} ends at byte {end}, past the end of the file ({self.size} bytes); the file is "
                "truncated: copy or download it again"
            )

    def _name(self, entry: Entry) -> str:
        name = _OTHER_NAMES.get(entry.name, entry.name)
        if _LAYER.match(name) or name in _GLOBAL:
            return name
        raise UnsupportedModelError(
            f"{self.path}: tensor {shown(entry.name)} has no name of GGUF's; aprgraph reads .apr files whose tensors are called "
            "blk.<layer>.*, as those made from GGUF files of the llama family are: give the GGUF file that it was made from"
        )

    def _tensor(self, entry: Entry) -> TensorInfo | None:
        """The tensor of an entry; None for the head of tied embeddings that is listed without bytes."""
        name = self._name(entry)
        where = f"{self.path}: tensor {shown(entry.name)}"
        dims, shape = self._dims(entry, name), shape_text(entry.dims)
        if 0 in dims or len(dims) > _MOST_DIMS:
            raise ModelFileError(f"{where} is {shape}, expected 1 to {_MOST_DIMS} dimensions of at least 1; the file is damaged")
        if not entry.nbytes and name == "output.weight":
            return None
        storage = find_storage(entry.code, dims, entry.nbytes)
        if storage is None:
            what = f"{where} of {shape} elements has {entry.nbytes} bytes of {name_of_code(entry.code)}"
            raise UnsupportedModelError(
                f"{what}; expected as many as F32, F16, BF16, F64, Q4_K, Q6_K, Q8_0, AprQ4 or AprQ8 take; convert the model again"
            )
        fmt, packing = storage
        if packing is None:
            return TensorInfo(name, dims, fmt, entry.offset, entry.nbytes)
        self._packings[name] = packing
        return TensorInfo(name, dims, fmt, entry.offset, 4 * math.prod(dims))

    def _dims(self, entry: Entry, name: str) -> tuple[int, ...]:
        """The dims, outermost first. `apr` reverses ggml's order for matrices, and leaves it for experts."""
        experts, dims = self.metadata.get(f"{self._keys.architecture}.expert_count"), entry.dims
        if len(dims) == _EXPERT_DIMS and (dims[-1] == experts or dims[0] != experts) and _LAYER.match(name):
            return dims[::-1]
        return dims

    def _check_overlaps(self, found: Mapping[str, TensorInfo]) -> None:
        previous: Entry | None = None
        for entry in sorted((self._stored[name] for name in found), key=lambda entry: entry.offset):
            if previous is not None and entry.offset < previous.offset + previous.nbytes:
                raise ModelFileError(f"{self.path}: tensors {shown(previous.name)} and {shown(entry.name)} overlap; the file is damaged")
            previous = entry

    # -- what is said of it ---------------------------------------------------------------------------------------------

    @property
    def details(self) -> Mapping[str, object]:
        """See ``Source.details``."""
        packed = {name: packing.name for name, packing in self._packings.items()}
        return {"version": "2.0", **({"decoded to F32": ", ".join(f"{name}: {what}" for name, what in packed.items())} if packed else {})}

    @property
    def _end(self) -> int:
        """Where the last tensor ends."""
        return max((entry.offset + entry.nbytes for entry in self._stored.values()), default=self._layout.data_start)

    @property
    def parts(self) -> tuple[Part]:
        """The file itself, as the only part."""
        footer = FOOTER_BYTES if self._layout.footer_of(self._end) is not None else 0
        return (Part(self.path, self.size, max(0, self.size - footer - -(-self._end // ALIGNMENT) * ALIGNMENT)),)

    def _notices(self) -> Iterator[str]:
        arch = self._keys.architecture
        stretched = any(name.startswith("rope_f") for name in self.tensors)
        unsaid = ([] if stretched else [f"{arch}.rope.scaling.*"]) + [f"{arch}.attention.sliding_window", f"{arch}.attention.scale"]
        yield Message(f"an .apr file says nothing of {', '.join(unsaid)}: if the model has them, give them with ", OVERRIDES)
        if self._packings:
            nbytes = sum(self.tensors[name].nbytes for name in self._packings)
            kinds = ", ".join(sorted({packing.name for packing in self._packings.values()}))
            what = f"{counted(len(self._packings), 'weight')} of {kinds}"
            yield f"{what} are decoded to float32 in memory ({nbytes:,} bytes): no kernel decodes them"
        doubles = [name for name, packing in self._packings.items() if packing.name == "F64"]
        if doubles:
            yield f"{listed(doubles, _NAMED)} of F64 are rounded to float32"
        if self._layout.footer_of(self._end) is None:
            yield "the file has no checksum at its end, as old .apr files do not"

    def wrong_checksum(self) -> str | None:
        """What the checksum at the end of the file says is wrong, in a sentence, or None. Reads all of the file."""
        start = self._layout.footer_of(self._end)
        if start is None:
            return None
        actual, buffer = 0, np.empty(min(_SUMMED, start), np.uint8)
        for offset in range(0, start, _SUMMED):
            part = buffer[: min(_SUMMED, start - offset)]
            self._file.read(offset, part)
            actual = zlib.crc32(part.data, actual)
        stored = int.from_bytes(self._file.mapping[start : start + FOOTER_BYTES], "little")
        return None if stored == actual else f"its last 4 bytes say {stored:08x}, the others sum up to {actual:08x}"

    def gguf_key(self, name: str) -> str:
        """See ``Source.gguf_key``."""
        return self._keys.gguf_key(name)

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """See ``Source.tensor_bytes``; decoded to float32 where the file's own layout is none that kernels have."""
        entry, packing = self._stored[tensor.name], self._packings.get(tensor.name)
        if packing is None:
            raw = self._file.view(entry.offset, entry.nbytes).reshape(-1, tensor.row_bytes)
            return raw.copy() if entry.offset % _KERNELS_ALIGNMENT else raw
        decoded = self._decoded.get(tensor.name)
        if decoded is None:
            decoded = np.empty(math.prod(tensor.dims), np.float32)
            for start in range(0, decoded.size, _CHUNK):
                part = decoded[start : start + _CHUNK]
                part[:] = self._decode(entry, packing, start, part.size, mapped=True)
            self._decoded[tensor.name] = decoded
        return decoded.view(np.uint8).reshape(-1, tensor.row_bytes)

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """See ``Source.read``."""
        entry, packing = self._stored[tensor.name], self._packings.get(tensor.name)
        if packing is None:
            self._file.read(entry.offset + start, into)
            return
        first, last = start // 4, -(-(start + into.size) // 4)
        decoded = self._decode(entry, packing, first, last - first, mapped=False).view(np.uint8)
        into.reshape(-1)[:] = decoded[start - 4 * first :][: into.size]

    def _decode(self, entry: Entry, packing: Packing, first: int, count: int, *, mapped: bool) -> npt.NDArray[np.float32]:
        """``count`` elements from the ``first`` on."""
        unit, stop = first // packing.elements, -(-(first + count) // packing.elements)
        head = self._raw(entry.offset, packing.head, mapped=mapped)
        start = entry.offset + packing.head + unit * packing.nbytes
        units = self._raw(start, (stop - unit) * packing.nbytes, mapped=mapped).reshape(-1, packing.nbytes)
        skipped = first - unit * packing.elements
        return np.ascontiguousarray(packing.decode(units, head)).reshape(-1)[skipped : skipped + count]

    def _raw(self, offset: int, count: int, *, mapped: bool) -> npt.NDArray[np.uint8]:
        if mapped:
            return self._file.view(offset, count)
        raw = np.empty(count, np.uint8)
        self._file.read(offset, raw)
        return raw

    def release(self) -> None:
        """See ``Source.release``."""
        self._file.release()

    def fingerprint(self) -> str:
        """See ``Source.fingerprint``."""
        return self._file.fingerprint(self._layout.data_start)

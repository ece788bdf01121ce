"""A model file of `apr`, version 2, as a Source: its tensors and numbers under GGUF's names.

The names of its tensors decide whose order the rows of q and k have. Files that `apr` made from GGUF keep GGUF's
names in most families; for those of Qwen, whose rows are the same in both, and for what came from safetensors, it
has the names of a checkpoint.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import OVERRIDES
from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.families.registry import find_family
from aprgraph.graph.message import Message
from aprgraph.graph.sources.apr.keys import AprMetadata
from aprgraph.graph.sources.apr.layout import ALIGNMENT, FOOTER_BYTES, HEADER_BYTES, MAGICS, Entry, Layout
from aprgraph.graph.sources.apr.stored import AprTensors
from aprgraph.graph.sources.checkpoint.gather import gather
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import Value, as_stored
from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_bytes
from aprgraph.graph.sources.mapped_file import SAMPLES, MappedFile
from aprgraph.graph.sources.source import Part, TensorFault, TensorInfo
from aprgraph.graph.words import counted, listed

__all__ = ["MAGICS", "AprFile"]

_LAYER = re.compile(r"blk\.\d+\.")
#: Of Qwen's GGUF files, `apr` renames what dense models have; the rest keeps its name behind the layer's.
_HALF_RENAMED = re.compile(r"model\.layers\.(\d+)\.((?:attn|ffn)_\w+\.\w+)")
_EMBEDDING, _HEAD, _OTHER_HEAD = "token_embd.weight", "output.weight", "lm_head.weight"
_EXPERT_DIMS = 3
_SUMMED = 1 << 24
_NAMED = 3


class AprFile:
    """An `.apr` file: ``metadata``, ``tensors`` by name, and the bytes, memory-mapped.

    Weights whose layout no kernel has are decoded to float32 when they are read. ``notices`` say what of the file
    is unusual. ``faults`` collects what is wrong with single tensors, which are then left out, instead of the first
    being raised.

    Raises ModelFileError, ModelError or UnsupportedModelError.
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
        self._file = self._layout.file
        names = [entry.name for entry in self._layout.entries]
        own = _EMBEDDING in names or any(map(_LAYER.match, names))
        self.metadata = AprMetadata(self.path, self._layout.metadata, "gguf" if own else "hf")
        self._stored = AprTensors(self._file)
        self._values = self._read_tensors()
        self._made: tuple[str, npt.NDArray[np.uint8]] | None = None
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, value.dims, value.format, value.offset, value.nbytes, in_pieces=value.in_pieces)
            for name, value in self._values.items()
        }
        self.notices = (*self._layout.notices, *self._notices())

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _read_tensors(self) -> dict[str, Value]:
        found: dict[str, StoredTensor] = {}
        for entry in self._layout.entries:
            if not entry.nbytes and entry.name in (_HEAD, _OTHER_HEAD):  # of tied embeddings, as exports list it
                continue
            try:
                found[_whole_name(entry.name)] = self._stored.add(entry, self._dims(entry))
            except (ModelFileError, UnsupportedModelError) as error:
                if self._faults is None:
                    raise
                self._faults.append(TensorFault(entry.name, error, self._stored.place_of(entry)))
        self._check_overlaps()
        if self.metadata.dialect == "hf":
            gathered = gather(find_family(self.metadata), found, (1, 1), self.path)
            return gathered.values
        if _OTHER_HEAD in found and _HEAD not in found:  # the copy of a tied head
            found[_HEAD] = found.pop(_OTHER_HEAD)
        return {name: as_stored(tensor) for name, tensor in found.items()}

    def _dims(self, entry: Entry) -> tuple[int, ...]:
        """The dims, outermost first. `apr` reverses ggml's order for matrices, and leaves it for experts."""
        experts, dims = self.metadata.expert_count, entry.dims
        if len(dims) == _EXPERT_DIMS and (dims[-1] == experts or dims[0] != experts) and _LAYER.match(_whole_name(entry.name)):
            return dims[::-1]
        return dims

    def _check_overlaps(self) -> None:
        previous: Entry | None = None
        for entry in self._stored.entries:
            if previous is not None and entry.offset < previous.offset + previous.nbytes:
                raise ModelFileError(f"{self.path}: tensors {shown(previous.name)} and {shown(entry.name)} overlap; the file is damaged")
            previous = entry

    # -- what is said of it ---------------------------------------------------------------------------------------------

    @property
    def details(self) -> Mapping[str, object]:
        """See ``Source.details``."""
        names = {"gguf": "GGUF's", "hf": "a checkpoint's"}[self.metadata.dialect]
        packed = [f"{name}: {packing.name}" for name, packing in self._stored.packings.items()]
        return {"version": "2.0", "names of tensors": names, **({"decoded to F32": ", ".join(packed)} if packed else {})}

    @property
    def _end(self) -> int:
        """Where the last tensor ends."""
        return max((entry.offset + entry.nbytes for entry in self._stored.entries), default=self._layout.data_start)

    @property
    def parts(self) -> tuple[Part]:
        """The file itself, as the only part."""
        footer = FOOTER_BYTES if self._layout.footer_of(self._end) is not None else 0
        return (Part(self.path, self.size, max(0, self.size - footer - -(-self._end // ALIGNMENT) * ALIGNMENT)),)

    def _notices(self) -> Iterator[str]:
        unsaid = [] if any(name.startswith("rope_f") for name in self.tensors) else ["RoPE's scaling"]
        what = ", ".join([*unsaid, "sliding windows and the scale of attention"])
        yield Message(f"an .apr file says nothing of {what}: if the model has such, give its keys with ", OVERRIDES)
        packings = self._stored.packings
        if packings:
            nbytes = sum(info.nbytes for name, info in self.tensors.items() if self._own_name(name) in packings)
            kinds = ", ".join(sorted({packing.name for packing in packings.values()}))
            what = f"{counted(len(packings), 'weight')} of {kinds}"
            yield f"{what} are decoded to float32 in memory ({nbytes:,} bytes): no kernel decodes them"
        doubles = [name for name, packing in packings.items() if packing.name == "F64"]
        if doubles:
            yield f"{listed(doubles, _NAMED)} of F64 are rounded to float32"
        if "tokenizer.ggml.tokens" in self.metadata and "tokenizer.ggml.token_type" not in self.metadata:
            yield "its tokens have no types: special tokens that are written in a prompt are taken for text"
        if self._layout.footer_of(self._end) is None:
            yield "the file has no checksum at its end, as old .apr files do not"
        if self.metadata.dialect == "hf" and (family := find_family(self.metadata)).pairing != family.hf_pairing:
            yield (
                "its rows of q and k are a checkpoint's, in which RoPE pairs halves of a head; `apr` itself rotates neighbours there "
                "(since its #2084), so its q_post_rope, k_post_rope and what follows them differ"
            )

    def _own_name(self, name: str) -> str:
        stored = self._values[name].stored
        return name if stored is None else stored.name

    def wrong_checksum(self) -> str | None:
        """What the checksum at the end of the file says is wrong, in a sentence, or None. Reads all of the file."""
        start = self._layout.footer_of(self._end)
        if start is None:
            return None
        # Nothing says which header the sum of a compressed file covers, so either will do.
        sums, buffer = [zlib.crc32(header) for header in self._layout.headers()], np.empty(min(_SUMMED, start), np.uint8)
        for offset in range(HEADER_BYTES, start, _SUMMED):
            part = buffer[: min(_SUMMED, start - offset)]
            self._file.read(offset, part)
            sums = [zlib.crc32(part.data, each) for each in sums]
        stored = int.from_bytes(self._file.mapping[start : start + FOOTER_BYTES], "little")
        if stored in sums:
            return None
        of, *plain = (f"{each:08x}" for each in sums)
        others = "".join(f", or to {each} with the header of a file that is not compressed" for each in plain)
        return f"its last 4 bytes{' (unpacked)' if plain else ''} say {stored:08x}, the others sum up to {of}{others}"

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """See ``Source.tensor_bytes``; made in memory where the file has other bytes than GGUF would."""
        value = self._values[tensor.name]
        if value.stored is not None:
            return value.make().reshape(-1, tensor.row_bytes)
        made = self._made  # of this call alone: another thread may ask for another tensor
        if made is None or made[0] != tensor.name:
            made = self._made = None  # its memory first
            made = self._made = tensor.name, value.make()
        return made[1].reshape(-1, tensor.row_bytes)

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """See ``Source.read``. Tensors that are made come from the mapping."""
        stored = self._values[tensor.name].stored
        if stored is not None:
            self._stored.read(stored, start, into)
        else:
            flat = into.reshape(-1)
            flat[:] = self.tensor_bytes(tensor).reshape(-1)[start : start + len(flat)]

    def release(self) -> None:
        """See ``Source.release``."""
        self._made = None
        self._file.release()

    @property
    def fingerprint_samples(self) -> int:
        """See ``Source.fingerprint_samples``."""
        return SAMPLES

    def fingerprint(self) -> str:
        """See ``Source.fingerprint``."""
        return self._file.fingerprint(self._layout.data_start)


def _whole_name(name: str) -> str:
    """A tensor's name, GGUF's whole where it ends as GGUF's does."""
    half = _HALF_RENAMED.fullmatch(name)
    return name if half is None else f"blk.{half[1]}.{half[2]}"

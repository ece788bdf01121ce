"""A checkpoint of Hugging Face transformers as a Source: keys and tensors under GGUF's names, bytes as they lie.

Rows of q and k are as transformers orders them: the graph's RoPE pairs what its ``Family.row_order`` says. What GGUF
stores otherwise than by name is made when its bytes are asked for: norms with 1 added, experts that are stored one by one
or gate and up together, FP8 and MXFP4. One such tensor is kept, for whoever reads it in parts, until ``release``. Kernels
do not ask for bytes of what they can read where it lies (``TensorInfo.in_pieces``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.families import Family
from aprgraph.graph.sources.checkpoint.agreement import doubt_vocabulary, is_same, require_biases
from aprgraph.graph.sources.checkpoint.config import ConfigMetadata
from aprgraph.graph.sources.checkpoint.config_class import find_class, is_tied, kind_of, named_class, text_config
from aprgraph.graph.sources.checkpoint.gather import Gathered, gather
from aprgraph.graph.sources.checkpoint.names import without_wrappers
from aprgraph.graph.sources.checkpoint.numbers_in_tensors import take_numbers
from aprgraph.graph.sources.checkpoint.places import CONFIG, INDEX, find_places, read_config
from aprgraph.graph.sources.checkpoint.quantized import read_quantization
from aprgraph.graph.sources.checkpoint.safetensors import SafetensorsFile, StoredTensor
from aprgraph.graph.sources.checkpoint.sentence_transformers import read_modules
from aprgraph.graph.sources.checkpoint.tokenizer import read_tokenizer
from aprgraph.graph.sources.checkpoint.values import Value, real
from aprgraph.graph.sources.mapped_file import SAMPLES
from aprgraph.graph.sources.room import require_room
from aprgraph.graph.sources.source import Part, TensorInfo
from aprgraph.graph.weight_pieces import read_pieces
from aprgraph.graph.words import counted, listed

#: Families whose norms hold w in a checkpoint, and 1 + w in what mlx-lm makes of it.
_SHIFTED_BY_MLX = ("qwen3next", "qwen35", "qwen35moe")
#: So many tensors are named.
_NAMED = 2
#: Bytes of a tensor from which on its making leaves no pages of the file in memory.
_LARGE = 1 << 26


class Checkpoint:
    """A checkpoint: its folder, its config.json, or one .safetensors file beside one.

    Raises ModelFileError, ModelError or UnsupportedModelError.
    """

    kind = "Hugging Face checkpoint"
    incomplete = "the checkpoint is incomplete, or its config.json is another's: download it again"

    def __init__(self, path: str | Path) -> None:
        places = find_places(Path(path))
        self.path, self.stem = places.path, places.stem
        self._config = places.folder / CONFIG
        config = read_config(self._config)
        quantization = read_quantization(config, self._config)
        tokenizer, doubts = read_tokenizer(places.folder, config)
        self._files = [SafetensorsFile(shard) for shard in places.shards]
        modules = read_modules(places.folder)
        self._dense = {slot: SafetensorsFile(file) for slot, file in modules.dense.items()}
        every = self._stored()
        family = find_class(config, self._config, every)
        self._require_unshifted(family)
        lost = _lost(places.indexed, every)
        unwrapped, wrapped = _without_wrappers(every)
        stored, decoded = quantization.decode(unwrapped)
        numbers = take_numbers(family, stored)
        pooling = {f"{family.architecture}.{key}": value for key, value in modules.values.items()}
        self.metadata = ConfigMetadata(self._config, config, {"general.name": self.stem, **tokenizer, **numbers, **pooling})
        self.notices = (
            *self.metadata.notices,
            *places.notices,
            *lost,
            *wrapped,
            *doubts,
            *decoded,
            *modules.notices,
        )
        found = gather(self.metadata.family, stored, quantization.block, self._config, text_config(config))
        text, table = text_config(config), found.values.get(self.metadata.family.gguf_name("embedding") + ".weight")
        self.notices += require_biases(kind_of(config), text, found.values, self._config)
        self.notices += doubt_vocabulary(text, table, self._config)
        self._values = self._with_head(found, table)
        self._made: tuple[str, npt.NDArray[np.uint8]] | None = None
        parts: dict[Path | None, int] = {file.path: number for number, file in enumerate(self._files)}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(
                name,
                value.dims,
                value.format,
                value.offset,
                value.nbytes,
                parts.get(found.files.get(name), 0),
                value.decoded_from,
                value.in_pieces,
                value.radius,
                value.misreadings,
            )
            for name, value in self._values.items()
        }

    def _require_unshifted(self, family: type[Family]) -> None:
        """Raise UnsupportedModelError for files of MLX whose converter adds 1 to norms, which are as transformers has them elsewhere."""
        if family.architecture in _SHIFTED_BY_MLX and any(file.format == "mlx" for file in self._files):
            raise UnsupportedModelError(
                f"{self.path}: its files say that MLX wrote them, whose converter changes norms and convolutions of "
                f"{family.architecture}; give the checkpoint that was converted"
            )

    def _stored(self) -> dict[str, StoredTensor]:
        """The tensors of all files by their own names."""
        found: dict[str, StoredTensor] = {}
        for file in self._files:
            for name, tensor in file.tensors.items():
                if name in found:
                    raise ModelFileError(f"{file.path}: tensor {shown(name)} is in {found[name].file.path.name} already; which is right?")
                found[name] = tensor
        for slot, file in self._dense.items():
            found |= {f"{slot}.{name.removeprefix('linear.')}": tensor for name, tensor in file.tensors.items()}
        self._files += self._dense.values()
        return found

    def _with_head(self, found: Gathered, table: Value | None) -> dict[str, Value]:
        """The tensors, the LM head only where it is not the embedding table, and RoPE's factors."""
        values, head = dict(found.values), self.metadata.family.gguf_name("lm_head") + ".weight"
        if is_tied(self.metadata.config, has_head=head in values):
            if head in values and (table is None or is_same(values[head], table)):
                values.pop(head)
            elif head in values:
                own = f"{found.own_names[head]} differs from the embedding table, to which {CONFIG} ties it (tie_word_embeddings)"
                self.notices += (f"{own}; it is the head here, as in transformers 5",)
        elif head not in values and self.metadata.has_head:
            raise ModelError(f"{self.path}: tensor 'lm_head.weight' is missing, and {CONFIG} does not tie it to the embedding table "
                             "(tie_word_embeddings); the checkpoint is incomplete")  # fmt: skip
        return values | {name: real(factors) for name, factors in self.metadata.factors.items()}

    # -- what the files are -------------------------------------------------------------------------------------------

    @property
    def details(self) -> Mapping[str, object]:
        """The class of transformers, and how many files there are."""
        return {"class": named_class(self.metadata.config) or "?", "files": len(self._files)}

    @property
    def size(self) -> int:
        """Bytes of all files with tensors."""
        return sum(file.mapped.size for file in self._files)

    @property
    def parts(self) -> Sequence[Part]:
        """The files with tensors."""
        return [_part(file) for file in self._files]

    def wrong_checksum(self) -> None:
        """safetensors has no checksum."""

    # -- data ---------------------------------------------------------------------------------------------------------

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as u8 [rows, bytes of a row]; without copying where they lie so in the file."""
        value = self._values[tensor.name]
        if value.stored is not None:
            return value.make().reshape(-1, tensor.row_bytes)
        made = self._made  # of this call alone: another thread may ask for another tensor
        if made is None or made[0] != tensor.name:
            made = self._made = None  # its memory first
            require_room(self.path, tensor.name, tensor.nbytes)
            made = self._made = tensor.name, value.make()
            if tensor.nbytes > _LARGE:  # what it was made of is not needed any more
                for file in self._files:
                    file.mapped.release()
        return made[1].reshape(-1, tensor.row_bytes)

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """See ``Source.read``. Tensors that are made come from the mapping."""
        stored = self._values[tensor.name].stored
        flat = into.reshape(-1)
        if stored is not None:
            stored.file.mapped.read(stored.offset + start, into)
        elif tensor.in_pieces is not None and tensor.format.is_plain:
            read_pieces(tensor.in_pieces, tensor.row_bytes, start, flat)
        else:
            flat[:] = self.tensor_bytes(tensor).reshape(-1)[start : start + len(flat)]

    def release(self) -> None:
        """Give back the memory of all pages that were read, and of what was made."""
        self._made = None
        for file in self._files:
            file.mapped.release()

    @property
    def fingerprint_samples(self) -> int:
        """See ``Source.fingerprint_samples``."""
        return max(SAMPLES // len(self._files), 1) * len(self._files)

    def fingerprint(self) -> str:
        """SHA-256 over config.json, and each file's size, header, and samples of 4 KiB: 256 in all, or one a file."""
        digest = hashlib.sha256(self._config.read_bytes())
        for file in self._files:
            file.mapped.sample(digest, file.data_start, max(SAMPLES // len(self._files), 1))
        self.release()
        return digest.hexdigest()


def _lost(indexed: Collection[str], stored: Collection[str]) -> tuple[str, ...]:
    """A notice of tensors that the index names and no file holds; one that the model needs is an error besides."""
    absent = sorted(name for name in indexed if name not in stored)
    if not absent:
        return ()
    what = f"{INDEX} names {counted(len(absent), 'tensor')} that no file holds ({listed(absent, _NAMED)})"
    return (f"{what}: index and files are not of one model",)


def _without_wrappers(stored: dict[str, StoredTensor]) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The tensors under the names that their modules have by themselves, and a notice where those were others."""
    shorter = {name: without_wrappers(name) for name in stored}
    odd = [name for name, short in shorter.items() if short != name]
    if not odd or len({*shorter.values()}) < len(stored):
        return stored, ()
    first = odd[0].removesuffix(shorter[odd[0]]) if odd[0].endswith(shorter[odd[0]]) else odd[0]
    notice = (
        f"{counted(len(odd), 'tensor')} read without what a wrapper put into the names ({first}), by which transformers finds none of them"
    )
    return {shorter[name]: tensor for name, tensor in stored.items()}, (notice,)


def _part(file: SafetensorsFile) -> Part:
    """What of a file belongs to no tensor: tensors do not overlap."""
    tensors = file.tensors.values()
    end = max((tensor.offset + tensor.nbytes for tensor in tensors), default=file.data_start)
    gaps = end - file.data_start - sum(tensor.nbytes for tensor in tensors)
    return Part(file.path, file.mapped.size, file.mapped.size - end, gaps)

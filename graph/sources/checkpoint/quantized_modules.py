"""Linear layers of a checkpoint whose weight is stored as several tensors: packed integers, scales, zero points.

To the rest of the reader each is one tensor `….weight` of F32, which is decoded when somebody asks for its bytes. How
the integers are packed is said in one file a format: gptq.py, awq.py, compressed_tensors.py, bitsandbytes.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, ModelFileError, shown
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.source import Misreadings, no_misreadings
from aprgraph.graph.words import joined, shape_text

Reals = npt.NDArray[np.float32]
#: How many steps of its integers a weight may be from the one that it was quantised from, as the root of the mean
#: square of 32 elements. GPTQ moves those of a row that are not rounded yet to make up for the errors of the others: up
#: to 1.4 in a simulation of it, with inputs that are independent and such that are not, of 3, 4 and 8 bits.
MOST_STEPS = 1.5
#: Elements that are decoded at a time.
_CHUNK = 1 << 19
_SCALES = ("F16", "BF16", "F32")


class ModuleFormat(Protocol):
    """How a linear layer is quantised."""

    @property
    def kind(self) -> str:
        """What it is called in words: `GPTQ`."""

    @property
    def known_by(self) -> str:
        """The last part of the name of the tensor that every quantised layer has: `qweight`."""

    @property
    def dtype(self) -> str | None:
        """The dtype of that tensor, where others of its name are of layers that are not quantised so."""

    @property
    def parts(self) -> Mapping[str, bool]:
        """The last parts of the names of the other tensors, and whether a layer has to have them."""

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """The weight of the layer that has those ``parts``, by the last parts of their names. Raises ModelFileError."""


@dataclass(frozen=True)
class Decoding:
    """A weight [rows, columns], or [experts, rows, columns], whose rows from ``start`` to ``stop`` are ``decode(start, stop)``.

    ``radius(start, stop)``: how far each of their elements may be from the one that was quantised, [rows, columns].
    """

    dims: tuple[int, ...]
    decode: Callable[[int, int], Reals]
    radius: Callable[[int, int], Reals]
    #: What it is to readers who make a mistake.
    misreadings: Misreadings = no_misreadings


@dataclass
class _DecodedFile:
    """Stands in for the file of a weight that is decoded."""

    path: Path
    mapped: MappedFile
    decoding: Decoding

    def bytes_of(self, tensor: StoredTensor) -> npt.NDArray[np.uint8]:
        """The bytes of the decoded weight."""
        rows, columns = math.prod(tensor.dims[:-1]), tensor.dims[-1]
        whole, step = np.empty((rows, columns), np.float32), max(_CHUNK // columns, 1)
        with np.errstate(invalid="ignore", over="ignore"):  # scales may be Inf or NaN, which is for `check` to say
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                whole[start:stop] = self.decoding.decode(start, stop)
        return whole.reshape(-1).view(np.uint8)


def with_decoded_modules(stored: Mapping[str, StoredTensor], module_format: ModuleFormat) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint, with one weight for each quantised layer in place of what it is stored as.

    Raises ModelError or ModelFileError.
    """
    known_by, ends = module_format.known_by, module_format.parts
    found = dict(stored)
    for name, first in stored.items():
        module, _, end = name.rpartition(".")
        if end != known_by or module_format.dtype not in (None, first.dtype):
            continue
        parts = {known_by: found.pop(name)}
        for part, is_needed in ends.items():
            tensor = found.pop(f"{module}.{part}", None)
            if tensor is not None:
                parts[part] = tensor
            elif is_needed:
                raise ModelError(
                    f"{first.file.path}: tensor {shown(name)} is there, and {part} of the same layer is not; the checkpoint is incomplete: "
                    "download it again"
                )
        weight = f"{module}.weight"
        if weight in found:
            raise ModelError(f"{first.file.path}: tensors {shown(name)} and {shown(weight)} are both there; expected one of them")
        decoding = module_format.weight(parts)
        file = _DecodedFile(first.file.path, first.file.mapped, decoding)
        found[weight] = StoredTensor(
            file,
            weight,
            "F32",
            decoding.dims,
            first.offset,
            4 * math.prod(decoding.dims),
            module_format.kind,
            decoding.radius,
            decoding.misreadings,
        )
    return found


def words_of(tensor: StoredTensor) -> npt.NDArray[np.uint32]:
    """A matrix of packed words."""
    return tensor.view().view(np.uint32).reshape(tensor.dims)


def require_matrix(tensor: StoredTensor, dtypes: tuple[str, ...], dims: tuple[int, ...] | None = None) -> None:
    """Raise ModelFileError unless a tensor is a matrix, or has ``dims``, of one of those dtypes."""
    is_right = len(tensor.dims) == 2 if dims is None else tensor.dims == dims
    if not is_right or tensor.dtype not in dtypes:
        wanted = "a matrix" if dims is None else shape_text(dims)
        raise ModelFileError(
            f"{tensor.file.path}: tensor {shown(tensor.name)} is {shape_text(tensor.dims)} {tensor.dtype}, expected {wanted} of "
            f"{joined(dtypes, 'or')}; the file is damaged, or config.json describes another quantisation"
        )


def require_scales(tensor: StoredTensor, dims: tuple[int, ...] | None = None) -> None:
    """Raise ModelFileError unless a tensor is a matrix, or has ``dims``, of real numbers."""
    require_matrix(tensor, _SCALES, dims)


def groups_of(tensor: StoredTensor, count: int) -> npt.NDArray[np.int32]:
    """The group of each input, of ``count``. Raises ModelFileError for one that is not there."""
    groups = tensor.view().view(np.int32)
    if groups.min() < 0 or groups.max() >= count:
        bad = groups[(groups < 0) | (groups >= count)][0]
        raise ModelFileError(
            f"{tensor.file.path}: tensor {shown(tensor.name)} holds the group {bad}, expected 0 to {count - 1}; the file is damaged: "
            "download it again"
        )
    return groups


def unpack_words(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """The integers of ``bits`` bits that lie along the first axis of [words, columns], the lowest bits first.

    Of 3 bits, 32 integers lie in three words, and two of them in two words each.
    """
    period = 1 if 32 % bits == 0 else bits
    fields, columns = 32 * period // bits, words.shape[1]
    groups = words.reshape(-1, period, columns)
    out = np.empty((len(groups), fields, columns), np.uint8)
    for field in range(fields):
        word, shift = divmod(field * bits, 32)
        value = groups[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            value = value | groups[:, word + 1] << np.uint32(32 - shift)
        out[:, field] = value & np.uint32((1 << bits) - 1)
    return out.reshape(-1, columns)

"""What every kind of model file is read as: metadata, tensors by name, and their bytes where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.weight_pieces import InPieces

#: Of a tensor's rows, those of all its matrices, from a first to an end, a number for each element.
Radius = Callable[[int, int], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Misreading:
    """What a tensor of packed integers is to a reader who makes one mistake: its rows' values, and their radius.

    ``words`` say how it is read: "with zero points one less".
    """

    words: str
    values: Radius
    radius: Radius


#: What is made only where it is asked for.
Misreadings = Callable[[], Sequence[Misreading]]


def no_misreadings() -> Sequence[Misreading]:
    """Of what is not packed."""
    return ()


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a model file. ``dims`` are elements, outermost first; ``offset`` counts from the start of its file.

    ``part`` is the number of that file, from 0, where a model is in several. ``stored`` is the dtype in the file where it was
    rounded to one that ``format`` does not tell of, for whoever reads its bytes gets it decoded: FP8; or the packing, of
    GPTQ and others, of which ``radius`` says how far elements may be from those that were packed, and ``misreadings`` what
    known mistakes make of them.
    ``in_pieces`` says how the tensor lies in the file, where that is not one matrix after the other in ``format``: whoever
    reads it through the Source then gets what was made.
    """

    name: str
    dims: tuple[int, ...]
    format: BlockFormat
    offset: int
    nbytes: int
    part: int = 0
    stored: str = ""
    in_pieces: InPieces | None = field(default=None, compare=False)
    radius: Radius | None = field(default=None, compare=False, repr=False)
    misreadings: Misreadings = field(default=no_misreadings, compare=False, repr=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the innermost dimension."""
        return self.format.row_bytes(self.dims[-1])

    @property
    def layout(self) -> str:
        """The format that kernels read, in lower case, where that is not ``format``; else nothing."""
        return "" if self.in_pieces is None or self.in_pieces.format == self.format else self.in_pieces.format.name.lower()

    def has_dims(self, dims: tuple[int, ...]) -> bool:
        """Whether the dims are ``dims``, or differ by ones before or behind: GGUF pads shapes so, and converters vectors."""
        return _without_ones_at_ends(self.dims) == _without_ones_at_ends(dims)


def _without_ones_at_ends(dims: tuple[int, ...]) -> tuple[int, ...]:
    """``dims`` without what does not change how elements lie."""
    there = [index for index, dim in enumerate(dims) if dim != 1]
    return dims[there[0] : there[-1] + 1] if there else ()


@dataclass(frozen=True)
class TensorFault:
    """What is wrong with one entry of the tensor list; ``info`` is the entry, where it makes sense by itself.

    ``part`` is the number of the file that lists it.
    """

    name: str
    error: AprgraphError
    info: TensorInfo | None = None
    part: int = 0


@dataclass(frozen=True)
class Part:
    """One file of a model: where it lies, its bytes, and how many of them follow the last tensor, and lie before the
    first or between two, where nothing reads them.
    """

    path: Path
    size: int
    beyond: int
    gaps: int = 0


class Source(Protocol):
    """A model file. Names of tensors and keys of metadata are GGUF's, whatever the file itself calls them."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def stem(self) -> str:
        """What the model is called, without a suffix: traces and artifacts are named after it."""

    @property
    def incomplete(self) -> str:
        """What may have happened where a tensor is missing, and what to do."""

    @property
    def kind(self) -> str:
        """What kind of file it is, in words, such as "GGUF file"."""

    @property
    def details(self) -> Mapping[str, object]:
        """What else there is to say of the file itself, for `inspect`: strings and numbers by name."""

    @property
    def notices(self) -> Sequence[str]:
        """What whoever reads the numbers of a run should know of the file itself, in sentences."""

    @property
    def metadata(self) -> Metadata:
        """What it says of the model beside the tensors."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name."""

    @property
    def size(self) -> int:
        """Bytes of the file, or of all of its files."""

    @property
    def parts(self) -> Sequence[Part]:
        """The files that the model lies in, by the numbers of ``TensorInfo.part``."""

    def wrong_checksum(self) -> str | None:
        """What a checksum of the file's own says is wrong, in words; None if there is none, or it holds. Reads all
        of the file.
        """

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as u8 [rows, bytes of a row] (rows: all dims but the innermost), without copying."""

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill ``into`` with the tensor's bytes from ``start`` on, by the system's calls.

        Of a disk that fails, or a file that becomes shorter, this tells by a ModelFileError; ``tensor_bytes`` would end the process.
        """

    def release(self) -> None:
        """Give back the memory of all pages that were read; the next touch reads them again, if need be from the disk."""

    def fingerprint(self) -> str:
        """An identifier of the content, 64 hex digits: 256 samples of the data, and all that is said of them."""

    @property
    def fingerprint_samples(self) -> int:
        """How many samples of the data of 4 KiB each the fingerprint takes; see whole_digest.py for all of it."""

"""A model: the file, its metadata with overrides, its family and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.families import FAMILIES, Family, Hyperparameters, find_family, read_hyperparameters
from aprgraph.graph.file_kind import kind_of_gguf
from aprgraph.graph.gguf_file import GGUFFile, TensorInfo
from aprgraph.graph.metadata import Metadata, Scalar

#: Keys that the tokenizer reads, when there is a prompt.
_READ_LATER = "tokenizer."


@dataclass(frozen=True)
class Model:
    """A GGUF file understood as a model. ``overrides`` are the metadata keys that the user replaced."""

    file: GGUFFile
    metadata: Metadata
    family: Family
    hyperparameters: Hyperparameters
    overrides: Mapping[str, Scalar | str]

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def vocabulary(self) -> int:
        """The number of token ids, as the embedding table has rows."""
        return self.tensor("token_embd.weight").dims[0]

    def has(self, name: str) -> bool:
        """Whether the file has the tensor ``name``."""
        return name in self.file.tensors

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """The tensor ``name``, which must have ``dims`` if they are given. Raises ModelError."""
        info = self.file.tensors.get(name)
        if info is None:
            expected = f" of {' x '.join(map(str, dims))}" if dims else ""
            raise ModelError(f"{self.path}: tensor {name!r}{expected} is missing; the conversion was incomplete")
        if dims is not None and info.dims != dims:
            raise ModelError(
                f"{self.path}: tensor {name!r} is {' x '.join(map(str, info.dims))}, expected {' x '.join(map(str, dims))} "
                f"from the metadata (outermost dimension first)"
            )
        return info


def load_model(path: str | Path, overrides: Mapping[str, Scalar | str] | None = None) -> Model:
    """Open a GGUF file and read its hyperparameters. Raises ModelFileError, ModelError or UnsupportedModelError."""
    file = GGUFFile(path)
    kind = kind_of_gguf(file.path, file.metadata, file.tensors)
    if kind is not None:
        raise UnsupportedModelError(f"{path}: this is {kind.what}; {kind.advice}")
    return read_model(file, file.metadata.with_overrides(overrides or {}), overrides or {})


def read_model(file: GGUFFile, metadata: Metadata, overrides: Mapping[str, Scalar | str]) -> Model:
    """The model of a file with ``metadata``, which holds ``overrides`` already. Raises ModelError or UnsupportedModelError."""
    family = find_family(metadata, FAMILIES)
    hyperparameters = read_hyperparameters(metadata, family)
    _check_overrides(metadata, overrides)
    return Model(file, metadata, family, hyperparameters, dict(overrides))


def _check_overrides(metadata: Metadata, overrides: Mapping[str, Scalar | str]) -> None:
    """Raise ModelError for a key that nothing reads: a misspelt one would leave the numbers as they are, unnoticed."""
    for key in overrides:
        if key not in metadata.keys_read and not key.startswith(_READ_LATER):
            known = ", ".join(sorted(metadata.keys_read))
            raise ModelError(f"--override-kv {key}: nothing reads this key of {metadata.path}; those that change the graph are {known}")

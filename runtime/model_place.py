"""A model file as another process finds it: by its path, and known by its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.families.registry import FamilyFile, loaded_family_files
from aprgraph.graph.model import Model
from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.executors.workers import NotOnThisMachineError


@dataclass(frozen=True)
class FileTensors:
    """The tensors of a file, without the model that they make."""

    file: Source

    def tensor(self, name: str) -> TensorInfo:
        """The tensor ``name``."""
        return self.file.tensors[name]


@dataclass(frozen=True)
class ModelPlace:
    """A model file's ``path`` and ``fingerprint``, and the families' files that declare what its graph may name."""

    path: str
    fingerprint: str
    families: tuple[FamilyFile, ...]

    @staticmethod
    def of(model: Model) -> ModelPlace:
        """Where a model lies."""
        return ModelPlace(str(model.path.absolute()), model.file.fingerprint(), loaded_family_files())

    def open(self) -> FileTensors:
        """What is there. Raises NotOnThisMachineError where that is not the model."""
        try:
            for file in self.families:
                file.load()
            source = open_source(self.path)
        except AprgraphError as error:
            raise NotOnThisMachineError(str(error)) from None
        if source.fingerprint() != self.fingerprint:
            raise NotOnThisMachineError(f"{self.path}: not the model that is run here, or it has changed since")
        return FileTensors(source)

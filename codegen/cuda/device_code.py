"""What an artifact says of its code for the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aprgraph.codegen.cuda.architectures import Architecture, check_runs_on, parse_architectures, ptx_architecture

#: The CPU level of the code that launches kernels: it does nothing that a later one would do faster.
HOST_CPU = "x86-64-v2"


@dataclass(frozen=True)
class CompiledFor:
    """An architecture that code was compiled for, and into what."""

    kind: Literal["SASS", "PTX"]
    architecture: Architecture


@dataclass(frozen=True)
class DeviceCode:
    """The fat binary of an artifact: its ``digest``, the ``architectures`` it was compiled for, and the ``compiler`` that did it.

    ``functions`` is how the kernels are called, as the JSON that TVM's runtime reads.
    """

    digest: str
    architectures: tuple[Architecture, ...]
    compiler: str
    functions: str

    def check_runs_on(self, compute_capability: tuple[int, int], device: str, where: str) -> None:
        """Raise ArtifactError if a device of ``compute_capability`` (major, minor) cannot run it."""
        images = [CompiledFor("SASS", architecture) for architecture in self.architectures]
        check_runs_on([*images, CompiledFor("PTX", ptx_architecture(self.architectures))], compute_capability, device, where)

    def to_json(self) -> dict[str, Any]:
        """As the artifact's manifest holds it."""
        return {
            "fat_binary": self.digest,
            "architectures": [str(architecture) for architecture in self.architectures],
            "compiler": self.compiler,
            "functions": self.functions,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DeviceCode:
        """The reverse. Raises KeyError, TypeError or ArtifactError for what ``to_json`` did not make."""
        architectures = parse_architectures([str(text) for text in document["architectures"]])
        return cls(str(document["fat_binary"]), architectures, str(document["compiler"]), str(document["functions"]))

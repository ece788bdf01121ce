"""CUDA architectures: what a kernel library is compiled for, and which devices run it.

An architecture is written sm_XY, X the major and Y (one digit) the minor compute capability: sm_80 is 8.0, sm_120 is 12.0.
Two kinds of image can be made for one: SASS, the machine code (a cubin), and PTX, which the driver compiles on the device.

Which device runs which image (CUDA C++ Programming Guide, chapter "The CUDA platform", and for suffixes "Compute
Capabilities", section "Feature availability"):

- SASS of sm_XY: devices of compute capability X.Z with Z >= Y, of the same major version only
- PTX of compute_XY: devices of compute capability XY or later
- the suffix a (architecture-specific, sm_90a), SASS or PTX: exactly that compute capability
- the suffix f (family-specific, sm_100f), SASS or PTX: as SASS, the same major version and no smaller minor
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from aprgraph.graph.arguments import ARCHITECTURES
from aprgraph.graph.errors import ArtifactError, shown

_EXPECTED = "expected sm_XY, such as sm_75 (Turing), sm_80 (A100), sm_86, sm_89 (Ada), sm_90 (H100), sm_100 or sm_120 (Blackwell)"


@dataclass(frozen=True, order=True)
class Architecture:
    """One CUDA architecture, by compute capability; ``suffix`` is "", "a" or "f". Ordered by capability."""

    major: int
    minor: int
    suffix: str = ""

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """The architecture ``text``, such as "sm_89". Raises ArtifactError that says what is expected."""
        found = re.fullmatch(r"sm_([1-9][0-9]?)([0-9])([af]?)", text.strip())
        if not found:
            raise ArtifactError(f"unknown CUDA architecture {shown(text)}; {_EXPECTED}")
        return cls(int(found[1]), int(found[2]), found[3])

    @property
    def number(self) -> str:
        """What follows sm_ and compute_: "80", "90a"."""
        return f"{self.major}{self.minor}{self.suffix}"

    def __str__(self) -> str:
        return f"sm_{self.number}"


DEFAULT_ARCHITECTURES: tuple[Architecture, ...] = (Architecture(8, 0), Architecture(9, 0))
"""A100 and the rest of 8.x, and H100. As PTX of the highest is always added, every later device runs it too."""


def parse_architectures(texts: Sequence[str]) -> tuple[Architecture, ...]:
    """The architectures ``texts``, each once and in ascending order; the default ones for none. Raises ArtifactError."""
    return tuple(sorted({Architecture.parse(text) for text in texts})) or DEFAULT_ARCHITECTURES


def ptx_architecture(architectures: Iterable[Architecture]) -> Architecture:
    """The architecture that PTX is made for beside the SASS of ``architectures``: the highest, without its suffix.

    PTX is there for devices that are yet to come, and with a suffix it would not run on them.
    """
    highest = max(architectures)
    return Architecture(highest.major, highest.minor)


class Compiled(Protocol):
    """What is compiled for one architecture; an Image of a fat binary is one."""

    @property
    def kind(self) -> Literal["SASS", "PTX"]: ...

    @property
    def architecture(self) -> Architecture: ...


def runs_on(images: Iterable[Compiled], compute_capability: tuple[int, int]) -> bool:
    """Whether a device of ``compute_capability`` (major, minor) can run at least one of ``images``, by the rule above."""
    return any(_runs(image, compute_capability) for image in images)


def _runs(image: Compiled, compute_capability: tuple[int, int]) -> bool:
    architecture = image.architecture
    capability = (architecture.major, architecture.minor)
    if architecture.suffix == "a":
        return compute_capability == capability
    if architecture.suffix == "f" or image.kind == "SASS":
        return compute_capability[0] == architecture.major and compute_capability >= capability
    return compute_capability >= capability


def check_runs_on(images: Sequence[Compiled], compute_capability: tuple[int, int], device: str, where: str) -> None:
    """Raise ArtifactError if the device cannot run the library of ``images``.

    ``compute_capability`` is the device's (major, minor), ``device`` its name, ``where`` names the artifact.
    """
    if runs_on(images, compute_capability):
        return
    ordered = sorted(images, key=lambda image: (image.kind == "PTX", image.architecture))
    names = [f"PTX compute_{image.architecture.number}" if image.kind == "PTX" else str(image.architecture) for image in ordered]
    needed = Architecture(*compute_capability)
    raise ArtifactError(
        f"{where}: compiled for {', '.join(names) or 'no architecture'}; {device} is {needed}; compile again with `",
        ARCHITECTURES.given(needed, f"['{needed}']"),
        "`",
    )

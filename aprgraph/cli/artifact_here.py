"""The artifact that ``aprgraph run`` takes where none is named: the one in this folder, of several the one that is likely meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aprgraph.cli.notices import print_notice

if TYPE_CHECKING:
    from aprgraph.codegen.artifact import Artifact


def artifact_here(target: str | None, arithmetic: str | None) -> Path:
    """The one artifact in this folder; of several the last that was compiled, for ``target`` (llvm) and ``arithmetic`` (plain).

    A notice says which one was taken and what the others are. Raises ArtifactError where there is none, or none of that kind.
    """
    from aprgraph.codegen.artifact import SUFFIX  # noqa: PLC0415
    from aprgraph.graph.arithmetics import PLAIN, parse_arithmetic  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415

    found = sorted(path for path in Path().glob(f"*{SUFFIX}") if path.is_dir())
    if not found:
        raise ArtifactError(
            "no artifact in this folder; name one, or a model: aprgraph run model.gguf, or aprgraph compile model.gguf first"
        )
    if len(found) == 1:
        return found[0]
    kind = (target or "llvm", PLAIN if arithmetic is None else parse_arithmetic(arithmetic).text)
    readable = {path: artifact for path in found if (artifact := _read(path)) is not None}
    fitting = [path for path, artifact in readable.items() if (artifact.target, artifact.arithmetic) == kind]
    if not fitting and target is None and arithmetic is None:
        fitting = list(readable)
    listed = ", ".join(map(str, found))
    if not readable:
        raise ArtifactError(f"several artifacts in this folder, and none can be read: {listed}; name one of them, which says why not")
    if not fitting:
        wanted = kind[0] if kind[1] == PLAIN else f"{kind[0]} in the arithmetic {kind[1]}"
        raise ArtifactError(f"several artifacts in this folder, none of them for {wanted}: {listed}; name one of them")
    chosen = max(fitting, key=lambda path: (path / "artifact.json").stat().st_mtime_ns)
    others = ", ".join(str(path) for path in found if path != chosen)
    print_notice(
        f"of the artifacts in this folder {chosen} is run, the last compiled for {readable[chosen].target}; the others are {others}"
    )
    return chosen


def _read(path: Path) -> Artifact | None:
    """The artifact, or None if it is damaged or of another version."""
    from aprgraph.codegen.artifact import read_artifact  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415

    try:
        return read_artifact(path)
    except ArtifactError:
        return None

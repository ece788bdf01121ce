"""Artifacts, as ``aprgraph inspect`` describes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aprgraph.codegen.artifact import Artifact


def describe_artifact(path: Path) -> dict[str, Any]:
    """What an artifact was compiled for and from, and its kernels. Raises ArtifactError."""
    from aprgraph.codegen.artifact import read_artifact  # noqa: PLC0415
    from aprgraph.codegen.trust.artifacts import is_trusted  # noqa: PLC0415

    artifact = read_artifact(path)
    return {
        "kind": "artifact",
        "target": artifact.target_name,
        "model": str(artifact.model_path),
        "fingerprint": artifact.fingerprint,
        "overrides": dict(artifact.overrides),
        "identity": artifact.identity,
        "trusted": is_trusted(path, artifact.identity) if artifact.library_digest is not None else "needs none, as it has no machine code",
        "programs": len(list((path / "programs").glob("*.vm"))),
        **(_gpu_code(artifact) if artifact.device is not None else {}),
        "kernels": dict(artifact.kernels),
    }


def _gpu_code(artifact: Artifact) -> dict[str, Any]:
    """What the fat binary itself says: its images, and of each kernel what it takes on each architecture."""
    from aprgraph.codegen.cuda.fat_binary import read_fat_binary  # noqa: PLC0415

    assert artifact.device is not None
    images = read_fat_binary(artifact.fat_binary.read_bytes())
    kernels: dict[str, list[str]] = {}
    for image in images:
        for kernel in image.kernels:
            needs = kernels.setdefault(kernel.name, [])
            if kernel.registers is not None:
                needs.append(f"{image}: {kernel.registers} registers, {kernel.shared_bytes} + {kernel.local_bytes} bytes")
    return {
        "compiler": artifact.device.compiler,
        "GPU code": {str(image): f"{len(image.kernels)} kernels, {image.size:,} bytes" for image in images},
        "GPU kernels (registers a thread, shared bytes a block + local bytes a thread)": {
            name: "; ".join(needs) for name, needs in sorted(kernels.items())
        },
    }

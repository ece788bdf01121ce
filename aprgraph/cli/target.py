"""What ``--target`` says: a target, and for CUDA the number of a GPU."""

from __future__ import annotations

from aprgraph.graph.errors import ArtifactError


def parse_target(text: str) -> tuple[str, int]:
    """``TARGET`` or ``cuda:N`` -> the target and the number of the GPU (0 if none is given). Raises ArtifactError."""
    target, colon, number = text.partition(":")
    if not colon:
        return target, 0
    if target != "cuda" or not (number.isascii() and number.isdigit()):
        raise ArtifactError(f"--target {text!r}: expected a target alone, or cuda:N with N the number of a GPU, from 0 on")
    return target, int(number)

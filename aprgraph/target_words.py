"""What is said of a target: its name, and for CUDA the number of a GPU."""

from __future__ import annotations

from aprgraph.graph.errors import ArtifactError, shown


def parse_target(text: str, called: str) -> tuple[str, int]:
    """``TARGET`` or ``cuda:N`` -> the target and the number of the GPU (0 if none is given). Raises ArtifactError.

    ``called`` is what an error calls the place where it was said.
    """
    target, colon, number = text.partition(":")
    if not colon:
        return target, 0
    if target != "cuda" or not (number.isascii() and number.isdigit() and len(number) <= 6):
        raise ArtifactError(f"{called} {shown(text)}: expected a target alone, or cuda:N with N the number of a GPU, from 0 on")
    return target, int(number)

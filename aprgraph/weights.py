"""Comparing two model files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aprgraph.graph.sources import open_source
from aprgraph.runtime.weights import WeightsReport, compare_files


def compare_weights(a: str | Path, b: str | Path, *, progress: Callable[[int], None] | None = None) -> WeightsReport:
    """Whether two model files hold the same model: tensor by tensor, with hyperparameters and tokenizers.

    ``progress`` is called with the bytes of both that were read since the last call. The report's ``sentence`` is the one
    to read first. Raises ModelFileError or UnsupportedModelError for a file that cannot be read.
    """
    return compare_files(open_source(a), open_source(b), progress)

"""Opens a model file of any kind."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.graph.sources.source import Source


def open_source(path: str | Path) -> Source:
    """The model file at ``path``. Raises ModelFileError or UnsupportedModelError."""
    return GGUFFile(path)

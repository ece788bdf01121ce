"""Which GGUF files are no models. Imports no reader of checkpoints: comparing traces asks."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.sources.file_kind import kind_of_gguf
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.graph.sources.kind import FileKind


def kind_in_gguf(path: Path) -> FileKind | None:
    """What a GGUF file is that is no whole model, such as an importance matrix; None for what may be one, or cannot be read."""
    try:
        file = GGUFFile(path, [])
    except AprgraphError:
        return None
    # Types that no weight has, as of token ids, are faults of single tensors.
    return kind_of_gguf(file.metadata, {*file.tensors, *(fault.name for fault in file.faults or ())})

"""Folders that a program is about to write into."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.errors import TraceError


def check_empty_folder(directory: Path) -> None:
    """Raise TraceError unless ``directory`` is an empty folder, or not there."""
    try:
        taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise TraceError(f"{directory}: cannot be written: {error.strerror}; give another folder") from None
    if taken:
        raise TraceError(f"{directory}: is not an empty folder; give another one, so that nothing of yours is overwritten")

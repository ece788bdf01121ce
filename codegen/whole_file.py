"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_whole(path: Path, data: bytes) -> Path:
    """Write ``path`` whole or not at all, and return it. Its folder, but not what that lies in, is made. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(data)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

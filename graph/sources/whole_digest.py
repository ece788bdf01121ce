"""The identity of a model file by all of its bytes, and how much of them its fingerprint covers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.sources.mapped_file import SAMPLE_BYTES
from aprgraph.graph.sources.source import Source

_BLOCK = 1 << 22
#: Digests by what a file is and when it was changed last, for a process that asks again.
_KNOWN: dict[tuple[object, ...], bytes] = {}


def whole_digest(source: Source) -> str:
    """SHA-256 over the fingerprint and every byte of the model's files in their order; 64 hex digits. Raises ModelFileError.

    It takes as long as reading them: some 2 GB a second where the processor has instructions for it.
    """
    digest = hashlib.sha256(source.fingerprint().encode())
    for part in source.parts:
        digest.update(_of_file(part.path))
    return digest.hexdigest()


def sampled_share(source: Source) -> float:
    """How much of the weights the fingerprint looks at, 0 to 1. The size, the metadata and the tensors' table it covers wholly."""
    data = sum(info.nbytes for info in source.tensors.values())
    return min(1.0, source.fingerprint_samples * SAMPLE_BYTES / data) if data else 1.0


def _of_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if key not in _KNOWN:
                digest = hashlib.sha256()
                while block := file.read(_BLOCK):
                    digest.update(block)
                _KNOWN[key] = digest.digest()
            return _KNOWN[key]
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None

"""Logits that llama.cpp's `llama-debug --save-logits` leaves: those of the last position, and the tokens beside them.

``DIR/llamacpp-<model>.bin`` is float32 [V], little-endian, without a header, ``…-tokens.bin`` int32 [n]; ``…-prompt.txt`` and the
numbers as text are not read (llama.cpp, examples/debug/debug.cpp). The script that llama.cpp's developers run beside it leaves the same of
transformers, as ``pytorch-<model>.bin`` (examples/model-conversion/scripts/utils/common.py).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stages import LOGITS
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry, TraceInfo
from aprgraph.runtime.trace.reader import Trace

_NAME = re.compile(r"(?P<by>llamacpp|pytorch)-(?P<model>.+)\.bin")
_EMBEDDINGS, _TOKENS = "-embeddings", "-tokens"
_PROGRAMS = {"llamacpp": "llama.cpp", "pytorch": "transformers"}


def is_saved_logits(path: Path) -> bool:
    """Whether a file is called as one of these is."""
    return _NAME.fullmatch(path.name) is not None and path.is_file()


class SavedLogits(Trace):
    """The file as a trace of `lm_head` of the last position. Its tokens are known where they lie beside it."""

    def __init__(self, path: Path) -> None:
        """Raises TraceError for files of another kind or size."""
        match = _NAME.fullmatch(path.name)
        assert match is not None
        if match["model"].endswith(_TOKENS):
            raise TraceError(f"{path}: holds the tokens of a run; give the logits beside it, {path.name.replace(f'{_TOKENS}.bin', '.bin')}")
        if match["model"].endswith(_EMBEDDINGS):
            raise TraceError(
                f"{path}: holds embeddings, pooled and perhaps normalised, which are no stage; save logits, without --embedding"
            )
        size = _size(path)
        if size == 0 or size % 4:
            raise TraceError(f"{path}: {size} bytes, expected float32 numbers, four bytes each; damaged, save it again")
        tokens = _tokens(path.with_name(f"{path.stem}{_TOKENS}.bin"))
        program = _PROGRAMS[match["by"]]
        info = TraceInfo({"name": match["model"]}, program, tokens, f"{LOGITS} 0..1", "last", "", {"writer": program})
        super().__init__(path, [TraceEntry(LOGITS, None, 0, (size // 4,), path.name)], info, has_manifest=False)

    def load_unverified(self, entry: TraceEntry) -> F32:
        """The logits, memory-mapped read-only."""
        if _size(self.directory) != 4 * entry.shape[0]:
            raise TraceError(f"{self.directory}: has changed since it was opened")
        return np.memmap(self.directory, dtype="<f4", mode="r", shape=entry.shape)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None


def _tokens(path: Path) -> tuple[int, ...]:
    """The tokens; none where there is no such file."""
    if not path.is_file():
        return ()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    ids = np.frombuffer(data[: len(data) // 4 * 4], "<i4")
    if not ids.size or len(data) % 4 or ids.min() < 0:
        raise TraceError(f"{path}: {len(data)} bytes that are no token ids, int32 of at least 0; damaged, save it again")
    return tuple(map(int, ids))

"""What lies at a path that was given where a trace or an artifact belongs, and what takes it: in the same words whatever was expected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aprgraph.graph.arguments import COMPILE, RUN
from aprgraph.graph.message import Message
from aprgraph.graph.sources.checkpoint import is_checkpoint
from aprgraph.graph.sources.file_kind import (
    ARRAYS_IN_GGUF,
    HEAD_BYTES,
    OF_ARTIFACTS,
    OF_TENSORS,
    OF_TRACES,
    kind_of_file,
    kind_of_folder,
    taken_by,
    what_is_in,
)
from aprgraph.graph.sources.gguf_kind import kind_in_gguf
from aprgraph.graph.sources.kind import FileKind
from aprgraph.graph.sources.open import begins_a_model

_MODEL = FileKind("model", "a model", Message("`", RUN, "` records a trace of it, and `", COMPILE, "` makes an artifact"))
#: The names of kinds whose advice is to give a model instead, and what takes them.
_TAKEN_BY = {
    **dict.fromkeys(("trace", "npz", ARRAYS_IN_GGUF), OF_TRACES),
    **dict.fromkeys(("aprt", "npy"), OF_TENSORS),
    "artifact": OF_ARTIFACTS,
}


#: The names of all kinds whose advice is what takes them.
TAKEN = frozenset((_MODEL.name, *_TAKEN_BY))


def kind_of_path(path: Path) -> FileKind | None:
    """What a file or folder is, with what takes it as its advice; None for what is not there, or that nobody knows."""
    if is_checkpoint(path):
        return replace(_MODEL, what="a checkpoint, which is a model")
    if path.is_dir():
        kind: FileKind | None = kind_of_folder(path) or FileKind("other-folder", what_is_in(path), "is it the right one?")
    elif (head := _head(path)) is None:
        return None
    elif begins_a_model(head):
        kind = kind_in_gguf(path) or _MODEL
    else:
        kind = kind_of_file(path, head)
    return replace(kind, advice=taken_by(*_TAKEN_BY[kind.name])) if kind is not None and kind.name in _TAKEN_BY else kind


def _head(path: Path) -> bytes | None:
    """How a regular file begins; None for what is none, or cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return None

"""Opens a model file of any kind."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.sources.apr import MAGICS, AprFile
from aprgraph.graph.sources.checkpoint import Checkpoint, is_checkpoint
from aprgraph.graph.sources.file_kind import KINDS_WITH_WEIGHTS, kind_of_bytes
from aprgraph.graph.sources.gguf_file import MAGIC, GGUFFile
from aprgraph.graph.sources.mapped_file import read_head
from aprgraph.graph.sources.single_experts import experts_together
from aprgraph.graph.sources.source import Source, TensorFault
from aprgraph.graph.sources.split_gguf import SplitGGUF, doubts_of_name, is_part

#: Endings of what lies in a checkpoint's folder beside its weights: configuration, tokenizer, template.
_OF_CHECKPOINTS = frozenset((".json", ".jinja", ".model", ".txt"))


def begins_a_model(head: bytes) -> bool:
    """Whether a file that begins so is of a kind that is read here."""
    return head.startswith((MAGIC, *MAGICS))


def is_of_model(path: Path, head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a model, of whatever program, or one of the files that a checkpoint is made of."""
    if begins_a_model(head) or is_checkpoint(path):
        return True
    kind = kind_of_bytes(head)
    return (kind is not None and kind.name in KINDS_WITH_WEIGHTS) or (path.suffix in _OF_CHECKPOINTS and is_checkpoint(path.parent))


def open_source(path: str | Path, faults: list[TensorFault] | None = None) -> Source:
    """The model file at ``path``, or all files of the model that it is a part of.

    ``faults`` collects what is wrong with single tensors, which are then left out, instead of the first being raised.
    Raises ModelFileError or UnsupportedModelError.
    """
    if is_checkpoint(Path(path)):
        return Checkpoint(path)
    if read_head(Path(path)).startswith(MAGICS):
        return AprFile(path, faults)
    file = GGUFFile(path, faults)
    if is_part(file.metadata):
        return SplitGGUF(file, faults)
    file.notices = doubts_of_name(file.path)
    file.tensors = experts_together(file.tensors, file.metadata, file.stored_bytes)
    return file

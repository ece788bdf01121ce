"""`check`: everything that can be said about a model file before anybody runs it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aprgraph.graph.arguments import QUICK
from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.message import Message
from aprgraph.graph.near_names import did_you_mean_path
from aprgraph.graph.sources.checkpoint import Checkpoint, is_checkpoint
from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_file, kind_of_folder, kind_of_gguf, what_is_in
from aprgraph.graph.sources.kind import FileKind
from aprgraph.graph.sources.open import begins_a_model, open_source
from aprgraph.graph.sources.source import Source, TensorFault
from aprgraph.graph.sources.split_gguf import SplitError
from aprgraph.runtime.check.describe import text_of
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.key_rules import judge_keys
from aprgraph.runtime.check.report import CheckReport
from aprgraph.runtime.check.structure import Structure
from aprgraph.runtime.check.survey import Progress
from aprgraph.runtime.check.tokenizer_rules import judge_tokenizer
from aprgraph.runtime.check.weights import judge_numbers, judge_weights, readable

_MODEL = "model"


def check(path: str | Path, *, weights: bool = True, progress: Progress | None = None) -> CheckReport:
    """Look at a file, and at all of its weights if ``weights``; ``progress`` is called with the bytes that were read.

    Raises ModelFileError for what is not there, cannot be read, or is nothing that anybody knows.
    """
    path = Path(path)
    kind = _other_kind(path)
    if kind is not None:
        return CheckReport(path, kind.name, (_of_kind(kind),), 0, 0, 0, ("what is in it",))
    faults: list[TensorFault] = []
    try:
        file = open_source(path, faults)
    except SplitError as error:  # a part without the others still has numbers
        return _Check(error.part, faults, FileKind("split", error.what, error.advice)).run(weights, progress)
    except UnsupportedModelError as error:
        # A checkpoint's config.json asks for it; of a file it is how this is written.
        found = Finding.of("key-unsupported" if Path(path).is_dir() else "file-kind", "", text_of(error, path, ""))
        return CheckReport(path, _MODEL, (found,), 0, 0, 0, ("what is in it",))
    except (ModelFileError, ModelError) as error:
        found = Finding.of("file-damaged", "", text_of(error, path, ""))
        return CheckReport(path, _MODEL, (found,), 0, 0, 0, ("tensors, metadata and tokenizer: the header cannot be read",))
    kind = kind_of_gguf(file.metadata, [*file.tensors, *(fault.name for fault in faults)])
    return _Check(file, faults, kind).run(weights, progress)


class _Check:
    """One check of a model file. ``faults`` are of tensors that the file lists and that do not lie in it as they should.

    ``kind`` is what it is if it is no whole model.
    """

    def __init__(self, file: Source, faults: list[TensorFault], kind: FileKind | None) -> None:
        self._file, self._faults, self._kind = file, faults, kind
        self._not_looked_at: list[str] = []
        self._aside: set[str] = set()

    def run(self, weights: bool, progress: Progress | None) -> CheckReport:
        file, read = self._file, 0

        def count(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            if progress is not None:
                progress(nbytes)

        findings = [*self._placement(), *self._contents()]
        if weights and (wrong := file.wrong_checksum()) is not None:
            findings.append(Finding.of("file-checksum", "", wrong))
        if weights:
            is_model = self._kind is None or self._kind.name == "split"
            architecture = str(file.metadata.get("general.architecture"))
            findings += judge_weights(file, architecture, count, self._aside) if is_model else judge_numbers(file, count)
            read_names = {info.name for info in readable(file)}
            self._not_looked_at += [f"{name}: its rows are too long" for name in file.tensors if name not in read_names]
        elif file.tensors:
            self._not_looked_at.append(Message("the values of the weights (", QUICK, ")"))
        if isinstance(file, Checkpoint):
            findings = [one.of_checkpoint() for one in findings]
        tensors = len({*file.tensors, *(fault.name for fault in self._faults)})
        return CheckReport(
            file.path,
            _MODEL if self._kind is None else self._kind.name,
            tuple(findings),
            tensors,
            len(readable(file)) if weights else 0,
            read,
            tuple(self._not_looked_at),
        )

    def _placement(self) -> Iterator[Finding]:
        """Of tensors that the file lists, and of what else it holds."""
        parts = self._file.parts
        for number, part in enumerate(parts):
            name = part.path.name if len(parts) > 1 else ""
            infos = [fault.info for fault in self._faults if fault.part == number and fault.info is not None]
            needed = max((info.offset + info.nbytes for info in infos), default=0)
            if needed > part.size:
                missing = needed - part.size
                share = f", {missing / needed:.0%}" if missing >= 0.01 * needed else ""
                yield Finding.of("file-truncated", name, f"{missing:,} of {needed:,} bytes are missing{share}")
            if part.beyond and not self._faults:
                yield Finding.of("file-tail", name, f"{part.beyond:,} bytes")
            if part.gaps:
                yield Finding.of("file-gap", name, f"{part.gaps:,} bytes")
        for notice in self._file.notices:
            yield Finding.of("file-notice", "", notice)
        for fault in self._faults:
            yield Finding.of("tensor-damaged", fault.name, text_of(fault.error, parts[fault.part].path, fault.name))
        if self._faults:
            self._not_looked_at.append("the values of the tensors that do not lie in the file as they should")

    def _contents(self) -> Iterator[Finding]:
        """Of metadata, tensors' names and shapes, and the tokenizer."""
        file = self._file
        if self._kind is not None:
            yield _of_kind(self._kind)
            self._not_looked_at.append("keys, and which tensors there are: they are not those of a whole model")
            if "tokenizer.ggml.tokens" in file.metadata:
                yield from judge_tokenizer(file.metadata, None)
            return
        structure = Structure(file, {fault.name for fault in self._faults})
        yield from structure.findings
        if structure.why_not is not None:
            self._not_looked_at.append(structure.why_not)
        if structure.model is not None:
            yield from (replace(one, name=structure.metadata.own_name(one.name)) for one in judge_keys(structure.model))
            self._aside = {name for group in structure.model.left_out for name in group.names}
        table = file.tensors.get("token_embd.weight")
        yield from judge_tokenizer(file.metadata, None if table is None else math.prod(table.dims[:-1]))


def _other_kind(path: Path) -> FileKind | None:
    """What a folder or a file is that is no GGUF file; None if it is one. Raises ModelFileError."""
    try:
        if is_checkpoint(path):
            return None
        if path.is_dir():
            kind = kind_of_folder(path)
            if kind is None:
                raise ModelFileError(f"{path}: {what_is_in(path)}; give the path of a .gguf file")
            return kind
        if not path.is_file():
            what = "not a regular file" if path.exists() else f"not there{did_you_mean_path(path)}"
            raise ModelFileError(f"{path}: {what}; give the path of a .gguf file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a path with a NUL in it
        raise ModelFileError(f"{str(path)!r}: cannot be opened: {error}; give the path of a .gguf file") from None
    kind = kind_of_file(path, head)
    if kind is None and not begins_a_model(head):
        raise ModelFileError(f"{path}: not a GGUF file, nor anything else that is known here: begins with {head[:4]!r}, expected b'GGUF'")
    return kind


def _of_kind(kind: FileKind) -> Finding:
    return Finding.of("file-kind", "", f"this is {kind.what}", kind.advice)

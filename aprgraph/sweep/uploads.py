"""What a head sends of models to workers that lack them: the bytes that their runs read, found by opening them here as a worker would."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aprgraph.api import load
from aprgraph.graph.errors import AprgraphError, ModelError
from aprgraph.graph.metadata import parse_overrides
from aprgraph.graph.ops import weights_of
from aprgraph.graph.sources.pieces import Pieces, noted_reads
from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.graph.tap_plan import parse_plan, parse_steps
from aprgraph.graph.words import bytes_text
from aprgraph.runs.plan import RunOptions
from aprgraph.runtime.executors.workers import Call
from aprgraph.sweep.cells import ModelOf, RunCell
from aprgraph.sweep.received import begin_receiving, end_receiving, receive
from aprgraph.sweep.work import Lacks

#: Told of a model's name, how many bytes of it were sent to a worker, and how many are to be.
OnSent = Callable[[str, int, int], None]
#: What is sent at once.
_AT_ONCE = 16 << 20


class _UnsentError(Exception):
    """Why a model is not sent."""


class Uploads:
    """Sends what workers lack of the models of ``runs``, of each model at most ``most`` bytes to a machine."""

    def __init__(self, runs: Iterable[RunCell], most: int, on_sent: OnSent | None = None) -> None:
        self._runs, self.most, self._on_sent = tuple(runs), most, on_sent
        self._found: dict[str, _Upload] = {}
        self._lock = threading.Lock()
        self._sending: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)

    def send(self, lacks: Lacks, call: Call) -> int | str:
        """Send what the worker of ``call`` says that it lacks: how many bytes there were, or why they are not sent.

        Raises what calls of the worker raise. Where another worker of the same machine was sent the same meanwhile, there were none.
        """
        try:
            upload = self._upload(lacks)
            with self._lock:
                sending = self._sending[lacks.fingerprint, lacks.place]
            with sending:
                return self._send(upload, call)
        except _UnsentError as error:
            return str(error)

    def _upload(self, lacks: Lacks) -> _Upload:
        with self._lock:  # several workers may ask at once, for what is found once
            upload = self._found.get(lacks.fingerprint)
            if upload is None:
                upload = self._found[lacks.fingerprint] = _Upload([run for run in self._runs if run.model.fingerprint == lacks.fingerprint])
            for name, ranges in lacks.ranges.items():
                for start, end in ranges:
                    upload.pieces[name].add(start, end)
        if upload.nbytes > self.most:
            raise _UnsentError(f"its runs read {bytes_text(upload.nbytes)} of it, and upload is {bytes_text(self.most)}")
        return upload

    def _send(self, upload: _Upload, call: Call) -> int:
        fingerprint, sent = upload.model.fingerprint, 0
        there = call(begin_receiving, fingerprint, upload.folder, upload.sizes)
        missing = {name: [*pieces.without(Pieces(there[name]))] for name, pieces in upload.pieces.items()}
        total = sum(end - start for ranges in missing.values() for start, end in ranges)
        for name, ranges in missing.items():
            for start, end in ranges:
                for first in range(start, end, _AT_ONCE):
                    data = _read(upload.paths[name], first, min(_AT_ONCE, end - first))
                    call(receive, fingerprint, name, first, data)
                    sent += len(data)
                    if self._on_sent is not None:
                        self._on_sent(upload.model.name, sent, total)
        call(end_receiving, fingerprint, upload.opens)
        return sent


class _Upload:
    """What is sent of the model of ``runs``: by the names that a worker gives its files, their ``paths`` here and ``pieces``.

    ``opens`` is the name of what a worker opens, ``folder`` what the model's own folder is called. Raises _UnsentError for a model
    that is not what it was.
    """

    def __init__(self, runs: Sequence[RunCell]) -> None:
        self.model = runs[0].model
        path = Path(self.model.path)
        folder = path if path.is_dir() else path.parent
        top = folder.name or "model"
        # A checkpoint is called as its folder is, also where a link leads there.
        self.folder = folder.resolve().name or top
        self.opens = top if path.is_dir() else f"{top}/{path.name}"
        try:
            reads = _reads(runs)
        except AprgraphError as error:
            raise _UnsentError(f"it cannot be sent: {error}") from None
        self.paths = {os.path.normpath(f"{top}/{os.path.relpath(file, folder)}"): file for file in reads}
        self.pieces = dict(zip(self.paths, reads.values(), strict=True))
        self.sizes = {name: path.stat().st_size for name, path in self.paths.items()}
        if not all(name.startswith(f"{top}/") for name in self.paths):
            raise _UnsentError("it has files outside its folder, which are not sent")

    @property
    def nbytes(self) -> int:
        """How many bytes are read."""
        return sum(pieces.nbytes for pieces in self.pieces.values())


def _read(path: Path, start: int, count: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), count, start)
    except OSError as error:
        raise _UnsentError(f"{path} cannot be read here any more: {error.strerror}") from None
    if len(data) < count:
        raise _UnsentError(f"{path} became shorter while it was sent")
    return data


def _reads(runs: Sequence[RunCell]) -> dict[Path, Pieces]:
    """What is read of the files of a model by whoever opens it, knows it by its fingerprint, and runs it. Raises AprgraphError."""
    longest: dict[tuple[ModelOf, str], RunCell] = {}
    for run in sorted(runs, key=lambda run: len(run.tokens)):
        longest[run.model, run.arithmetic] = run
    with noted_reads() as reads:
        for run in longest.values():
            model, asked = run.model, run.recording
            opened = load(model.path, parse_overrides(list(model.overrides)), model.ignore)
            if opened.model.file.fingerprint() != model.fingerprint:
                raise ModelError(f"{model.path}: has changed since the sweep began")
            options = RunOptions(asked.positions, asked.max_tokens, parse_steps(asked.steps), asked.prefill_chunk, run.arithmetic)
            for graph in opened.plan(parse_plan(asked.taps, asked.layers), run.tokens, options).graphs():
                for node in weights_of(graph):
                    for name in filter(None, (str(node.attrs.get(attr, "")) for attr in ("tensor", "scale"))):
                        _touch(opened.model.file, opened.model.tensor(name))
            opened.model.file.release()
    return reads.pieces


def _touch(file: Source, tensor: TensorInfo) -> None:
    """Ask for a tensor as kernels do; what is not to be made for that is not read."""
    if tensor.in_pieces is not None:
        tensor.in_pieces.find()
    else:
        file.tensor_bytes(tensor)

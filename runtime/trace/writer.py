"""Writes trace directories: tensors as they appear, the manifest last."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from aprgraph.graph.durable import sync_files, sync_folder
from aprgraph.graph.errors import TraceError
from aprgraph.runtime.output_file import write_text_atomically
from aprgraph.runtime.trace.aprt import F32, relative_path
from aprgraph.runtime.trace.destination import OWN, check_trace_place, mark_kept, remove_leftovers, remove_old
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER, TraceEntry, TraceInfo, manifest_text
from aprgraph.runtime.trace.partial_tensor import PartialTensor
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.statistics import Statistics, compute_statistics
from aprgraph.runtime.trace.unread_files import beside_manifest
from aprgraph.runtime.trace.writing_behind import WritingBehind
from aprgraph.runtime.trace.writing_between import WriteFiles, WritingBetween


class TraceWriter:
    """Writes a trace as tensors appear. Nothing is touched before the first tensor; ``finish`` writes the manifest.

    From the first tensor to ``finish`` the directory holds MARKER, locked: a second run is refused, and what an
    interrupted one leaves is not taken for a trace.
    """

    def __init__(self, directory: str | Path, *, stats_only: bool = False, author: str = OWN, force: bool = False) -> None:
        """``author`` is whose the trace will be (see ``author_of``). Raises TraceError for a place that holds what is not replaced.

        That is everything but an earlier trace of the same author, which goes with the first tensor, and what an interrupted run
        left. With ``force`` it is written over; what is not in the way stays.
        """
        self.directory = Path(directory)
        self._author, self._force = author, force
        self._lock: int | None = None
        check_trace_place(self.directory, author, force=force)
        self.stats_only = stats_only
        self.entries: list[TraceEntry] = []
        self._root = str(self.directory)
        self._made: set[str] = set()
        self._places: set[str] = set()  # the same, as they are called in a trace
        self._partial: list[PartialTensor] = []
        self._files: list[str] = []
        self._writing: WritingBehind | WritingBetween = WritingBehind()

    def write_values_that_stay(self, write_files: WriteFiles) -> None:
        """From now on no tensor is copied: it stays as it is for as long as it is held, and ``write_files`` writes it, with others, while
        nothing else is done. To be called before the first.
        """
        self._writing = WritingBetween(write_files)

    def write(self, node: str, stage: str, layer: int | None, step: int, values: F32, statistics: Statistics | None = None) -> TraceEntry:
        """Write one tensor (f32, in its shape) until ``finish``, with its statistics if the caller has them.

        Raises TraceError, perhaps of an earlier tensor.
        """
        self._begin()
        file = None
        if not self.stats_only:
            file = relative_path(stage, layer, step)
            self._writing.write(self._noted(self._place(file)), layer, values)
        entry = TraceEntry(stage, layer, step, values.shape, file, node, statistics or compute_statistics(values))
        self.entries.append(entry)
        return entry

    def reserve(self, stage: str, layer: int | None, step: int, shape: tuple[int, ...]) -> PartialTensor:
        """A tensor that comes in parts; ``write_partial`` takes it when it is whole. Raises TraceError."""
        self._begin()
        partial = PartialTensor(self._place(relative_path(stage, layer, step)), layer, shape)
        self._partial.append(partial)
        return partial

    def write_partial(
        self, node: str, stage: str, layer: int | None, step: int, partial: PartialTensor, summarise: Callable[[F32], Statistics]
    ) -> TraceEntry:
        """Keep a tensor whose parts are all there, with its statistics. Raises TraceError."""
        statistics, shape = summarise(partial.values), partial.values.shape
        if not self.stats_only:
            partial.keep()
            self._noted(partial.path)
            self._partial.remove(partial)
        file = None if self.stats_only else relative_path(stage, layer, step)
        entry = TraceEntry(stage, layer, step, shape, file, node, statistics)
        self.entries.append(entry)
        return entry

    def wait(self) -> None:
        """Until each tensor so far is written, if not on the disk. Raises TraceError for the first that could not be."""
        self._writing.wait()

    def finish(self, info: TraceInfo) -> Trace:
        """Write the manifest and return the trace, all of which is on the disk then. Raises TraceError."""
        self._begin()
        self.wait()
        self._sync()
        trace = Trace(self.directory, self.entries, info, beside_manifest(self.directory, {entry.file for entry in self.entries}))
        write_text_atomically(self.directory / MANIFEST, manifest_text(trace.entries, info))
        (self.directory / MARKER).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # at worst it says after a power cut that the run was interrupted
            sync_folder(self.directory)
        self.close()
        return trace

    def close(self) -> None:
        """Give the directory free, finished or not; MARKER stays there if not."""
        self._writing.stop()
        for partial in self._partial:
            partial.discard()
        self._partial.clear()
        self._unlock()

    def _sync(self) -> None:
        """Have the tensors on the disk, all at once, before a manifest names them. Raises TraceError."""
        try:
            folders = {folder for made in self._made for folder in self._folders_to(made)}
            sync_files(self.directory, self._files, [str(self.directory), *sorted(folders)])
            sync_folder(self.directory.absolute().parent)
        except OSError as error:
            raise TraceError.unwritable(error.filename or self.directory, error) from None

    def _folders_to(self, directory: str) -> list[str]:
        """The folders of the trace, but its own, that lead to ``directory``, which is the last."""
        root = f"{self.directory}{os.sep}"
        names = directory.removeprefix(root).split(os.sep) if directory.startswith(root) else []
        return [root + os.sep.join(names[: count + 1]) for count in range(len(names))]

    def _noted(self, path: str) -> str:
        self._files.append(path)
        return path

    def _place(self, file: str) -> str:
        """The path of ``file``, whose folder is made."""
        folder = file.rpartition("/")[0]
        if folder not in self._places:
            self._make(f"{self._root}{os.sep}{folder}" if folder else self._root)
            self._places.add(folder)
        return f"{self._root}{os.sep}{file}"

    def _begin(self) -> None:
        """Take the directory, once. An old trace goes: its manifest would describe files that are about to change."""
        if self._lock is not None:
            return
        # Again, for it may not be as it was when the run began.
        place = check_trace_place(self.directory, self._author, force=self._force)
        self._make(self._root)
        try:
            mark_kept(self._take_marker(), place.others)
            (self.directory / MANIFEST).unlink(missing_ok=True)
        except BlockingIOError:
            raise TraceError.at_place(f"{self.directory}: another run is writing there", "wait for it") from None
        except OSError as error:
            raise TraceError.unwritable(self.directory, error) from None
        remove_old(self.directory, place.old)
        remove_leftovers(self.directory)

    def _take_marker(self) -> int:
        """Create MARKER and lock it, and return it, open. The lock ends with this process; who removed the file meanwhile had finished."""
        path = self.directory / MARKER
        while True:
            self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.path.samestat(os.fstat(self._lock), os.stat(path)):
                    return self._lock
            except OSError:
                self._unlock()
                raise
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self._unlock()

    def _make(self, directory: str) -> None:
        if directory in self._made:
            return
        try:
            if not self._is_new(directory):
                if link := next(filter(os.path.islink, self._folders_to(directory)), None):
                    raise TraceError.at_place(f"{link}: is a link, and a trace is written into folders of its own", "remove it")
                os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise TraceError.at_place(f"{directory}: cannot be created: {error.strerror}") from None
        self._made.add(directory)

    def _is_new(self, directory: str) -> bool:
        """Whether it was made, in a folder of this trace, by one call: most are."""
        if directory.rpartition(os.sep)[0] not in self._made:
            return False
        try:
            os.mkdir(directory)
        except FileExistsError:
            return False
        return True

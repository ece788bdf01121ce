"""Trace directories: APRT files and the manifest ``trace.json`` beside them.

Directories without a manifest (as ``apr`` writes them) are read too; then shapes are unknown and tensors are flat.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import LAYERS, RUN, STATS_ONLY, TAPS
from aprgraph.graph.errors import NotRecordedError, TraceError
from aprgraph.graph.ir import Graph
from aprgraph.graph.shown import Shown
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import counted, shape_text
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32, read_aprt, whose
from aprgraph.runtime.trace.described import why_not_described
from aprgraph.runtime.trace.entry_frame import frame_of_entries
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER, QK_ROWS, TraceEntry, TraceInfo, read_manifest
from aprgraph.runtime.trace.manifest_graph import graph_of_text, why_no_graph
from aprgraph.runtime.trace.names import NameRules, find_place, place_in
from aprgraph.runtime.trace.statistics import Statistics
from aprgraph.runtime.trace.unread_files import Unread, beside_manifest
from aprgraph.runtime.trace.without_manifest import read_without_manifest


class Trace(Shown):
    """A trace directory, or what another program left in place of one, which ``directory`` then is the path of.

    ``entries`` are in execution order; ``info`` is None where nothing is known of the run. ``has_manifest`` says whether
    a manifest lists what was recorded; else the files alone tell. ``unread`` are the files that look like tensors and
    that no entry is of, each with why: misnamed, in another form, of another run.

    ``trace["layer3.ffn_out"]`` is a tensor, and ``trace.keys()`` are the names of all of them. Iteration gives entries.
    """

    #: The APRT file that it was opened by, where it is of that alone.
    file: Path | None = None
    #: The names of arrays that are not to be read, as whoever opened it said.
    left_out: tuple[str, ...] = ()
    #: How something was read that could be read otherwise, in sentences.
    read_as: tuple[str, ...] = ()
    #: Which arrays have other axes than the stages, where that leaves nothing open, in a sentence.
    regrouped: str | None = None

    def __init__(
        self,
        directory: Path,
        entries: Sequence[TraceEntry],
        info: TraceInfo | None,
        unread: Sequence[Unread] = (),
        *,
        has_manifest: bool | None = None,
    ) -> None:
        """``has_manifest`` where it does not follow from ``info``, of which other forms than ours tell a part."""
        self.directory = directory
        #: Before the names of files: to put paths together as paths costs more than to read a small tensor.
        self._prefix = "" if directory == Path() else f"{directory}/".replace("//", "/")
        self.has_manifest = info is not None if has_manifest is None else has_manifest
        self.unread = tuple(unread)
        self.entries = tuple(sorted(entries, key=lambda entry: entry.order))
        self.info = info
        self._by_key = {entry.key: entry for entry in self.entries}
        #: The files whose statistics were looked at, for all copies of a trace (with_shapes).
        self._described: set[str] = getattr(self, "_described", set())

    @staticmethod
    def open(directory: str | Path, *, names: NameRules = ()) -> Trace:
        r"""Open a directory with or without a manifest, or what another program left. Raises TraceError.

        That is a file of arrays (.npz, .npy, .safetensors, and .pt or .pth where torch is installed), a folder of such files,
        a tree of one folder a position as `apr parity --per-op` leaves it, or the logits of llama.cpp's
        `llama-debug --save-logits`. ``names`` tell of arrays that are not called as stages are where they belong:
        ``r"layers\.(\d+)\.mlp=layer\1.ffn_out"``, or that they are to be left out: ``r"debug\..*=ignore"`` (see NameMap).
        The path of a file stands for the rules in it, one a line.
        """
        from aprgraph.runtime.trace.foreign import open_with_names  # noqa: PLC0415 -- it needs this module

        directory = Path(directory)
        [foreign] = open_with_names([directory], names)
        if isinstance(foreign, Trace):
            return foreign
        if not directory.is_dir():
            from aprgraph.graph.sources.path_kind import TAKEN, kind_of_path  # noqa: PLC0415 -- which knows all model files

            kind = kind_of_path(directory)
            if kind is not None and kind.name in TAKEN:
                raise TraceError(f"{directory}: not a trace's directory but {kind.what}; ", kind.advice)
            run = RUN.with_options(TAPS.given("all", "'all'"), in_python="CompiledModel.run(taps='all')")
            raise TraceError(f"{directory}: not a directory; expected a trace directory, such as `", run, "` writes")
        if (directory / MARKER).exists():
            raise TraceError(
                f"{directory}: a run is writing there, or was interrupted ({MARKER}); its tensors may be of two runs: trace again"
            )
        if os.path.lexists(directory / MANIFEST):
            return _open_with_manifest(directory)
        entries, unread = read_without_manifest(directory)
        return Trace(directory, entries, None, unread)

    @staticmethod
    def of_file(file: Path, directory: Path, entry: TraceEntry, info: TraceInfo | None) -> Trace:
        """A trace of the one APRT file that ``entry`` is of, in ``directory``; ``info`` where a manifest lists it."""
        trace = Trace(directory, [entry], info)
        trace.file = file
        return trace

    @staticmethod
    def write(
        directory: str | Path,
        tensors: Mapping[Any, Any],
        *,
        tokens: Sequence[int] | None = None,
        generated: Sequence[int] | None = None,
        model: Mapping[str, Any] | str = "",
        target: str = "numpy",
        arithmetic: str | None = None,
        weights: str | None = None,
        writer: str | None = None,
        qk_rows: str | None = None,
        notes: Sequence[str] = (),
        force: bool = False,
    ) -> Trace:
        """Write a trace from arrays, such as another program's tensors, and return it.

        ``tensors`` maps (layer, stage) or (layer, stage, step), with layer None for whole-model stages, or names such as
        ``"layer3.ffn_gate"``, ``"lm_head"`` and ``"step2.layer3.ffn_gate"`` (a file's place in a trace, ``"layer-3/ffn_gate"``, is one too)
        to arrays of NumPy, torch (on any device), jax or another library, or lists: of float16, float32, float64, bfloat16, float8, or
        whole numbers. Each element is rounded to float32 once.

        Shapes are those of the stage table; axes of 1 may stand beside them (1 x n x E), and heads may have an axis of their own
        behind the positions (n x H x D). Heads first is refused where n tells it, and where H = n it is read as positions first. A tensor
        of one position among others of n is that of the last position. ``"layer3.qkv_matmul[q]"`` names a part of a stage; all its parts
        together are the one tensor.

        ``tokens`` are those of step 0 and ``generated`` those of the steps after it, where they are known. ``model`` is
        the model's name, or what the manifest is to say of it. Where ``arithmetic`` is not given and some tensors are float16,
        bfloat16 or float8, it is taken for that, with a note. For the rest see TraceInfo.

        ``qk_rows`` says in which order the rows of q and k are: ``"interleaved"`` where RoPE turns neighbours (2i, 2i + 1), as
        in GGUF files of llama, ``"halves"`` where it turns (i, i + D/2), as in its checkpoints. ``diff`` and ``audit`` then
        bring them to one order.

        An earlier trace of the same ``writer`` (else ``target``) in ``directory`` is replaced whole; what else is there is written
        over only with ``force``, and stays where it is not in the way.

        Raises TraceError, before anything is written, for places that hold something else, and for names, layers, types and
        shapes that the stage table does not have.
        """
        from aprgraph.runtime.trace.from_arrays import write_arrays  # noqa: PLC0415 -- it needs this module

        described = {"name": model} if isinstance(model, str) else dict(model)
        extra: dict[str, Any] = {"arithmetic": arithmetic, "weights": weights, "writer": writer, QK_ROWS: qk_rows}
        extra |= {"generated": [] if generated is None else list(generated), "notes": list(notes)}
        given = {key: value for key, value in extra.items() if value}
        return write_arrays(directory, tensors, () if tokens is None else tokens, described, target, given, force=force)

    def get(self, stage: str, layer: int | None = None, step: int = 0) -> TraceEntry:
        """The entry of one tensor. Raises NotRecordedError, which is a TraceError and a KeyError, if it was not recorded."""
        try:
            return self._by_key[Place(step, layer, stage)]
        except KeyError:
            label = Place(step, layer, stage).label
            raise NotRecordedError(f"{self.directory}: {label} was not recorded; tap it with ", TAPS, " and ", LAYERS) from None

    def tensor(self, stage: str, layer: int | None = None, step: int = 0) -> F32:
        """One tensor as f32 in its shape, read-only, a large one memory-mapped (flat where its shape is unknown). Raises TraceError."""
        return self.load(self.get(stage, layer, step))

    def load(self, entry: TraceEntry) -> F32:
        """The tensor of ``entry``; see ``tensor``. That it has the statistics that the manifest gives is looked at once."""
        values = self.load_unverified(entry)
        if self.is_to_be_described(entry):
            self.settle(entry, values)
        return values

    def is_to_be_described(self, entry: TraceEntry) -> bool:
        """Whether a tensor has statistics in the manifest that were not looked at yet: ``settle`` does that after ``load_unverified``."""
        return entry.statistics is not None and entry.file is not None and entry.file not in self._described

    def settle(self, entry: TraceEntry, values: F32, found: Statistics | None = None) -> None:
        """Hold the tensor of an entry that is to be described against its statistics; ``found`` are those of ``values``, where they are
        known. Raises TraceError.
        """
        assert entry.file is not None
        assert entry.statistics is not None
        self.note_described(entry)
        why_not = why_not_described(values, entry.statistics, found)
        if why_not is not None:
            raise TraceError(
                f"{self._prefix + entry.file} is not the tensor that the manifest describes: {why_not}; it was damaged or exchanged "
                "after it was recorded: copy it again, or record it again"
            )

    def note_described(self, entry: TraceEntry) -> None:
        """The tensor of an entry has been held against its statistics, which is done once."""
        if entry.file is not None:
            self._described.add(entry.file)

    def load_unverified(self, entry: TraceEntry) -> F32:
        """As ``load``, whatever the tensor's statistics are: for those who look at a few of its elements."""
        if entry.file is None:
            raise TraceError(f"{self.directory}: {entry.label} has statistics only; run again without ", STATS_ONLY)
        path = self._prefix + entry.file
        layer, values = read_aprt(path)
        if layer != entry.layer:
            raise TraceError(f"{path}: its header names {whose(layer)}, expected {whose(entry.layer)}; written by another run?")
        if math.prod(entry.shape) != values.size:
            dims = shape_text(entry.shape)
            raise TraceError(f"{path}: {values.size} elements, but the manifest says {dims}; written by another run?")
        return values.reshape(entry.shape)

    def with_shapes(self, shapes: Mapping[Place, tuple[int, ...]]) -> Trace:
        """The same trace with the shapes of some tensors, by (step, layer, stage), which must be of as many elements."""
        changed = copy.copy(self)
        Trace.__init__(
            changed,
            self.directory,
            [replace(entry, shape=shapes.get(entry.key, entry.shape)) for entry in self],
            self.info,
            self.unread,
            has_manifest=self.has_manifest,
        )
        return changed

    def graph(self) -> Graph | None:
        """The graph that was run, with its taps; None where there is no manifest, or none in it that holds together. Not to be changed."""
        return graph_of_text(self.info.graph_text) if self.info is not None and self.info.graph_text else None

    def why_no_graph(self) -> str | None:
        """Why the graph in the manifest does not hold together here; None where it does, or where there is none."""
        return why_no_graph(self.info.graph_text) if self.info is not None and self.info.graph_text else None

    def keys(self) -> tuple[str, ...]:
        """The names of the tensors in execution order: ``layer3.ffn_out``, ``lm_head``, ``step2.layer0.attn_out``."""
        return tuple(entry.key.name for entry in self.entries)

    def __getitem__(self, key: str | tuple[Any, ...]) -> F32:
        """The tensor that ``Trace.write`` would take under ``key``: see ``tensor``. Raises NotRecordedError."""
        return self.load(self._by_key[place_in(str(self.directory), self._by_key, key)])

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.keys())

    def frame(self) -> dict[str, list[Any]]:
        """A row for each tensor, as columns of one length, which pandas and polars take: place, shape, file and statistics.

        Statistics are None where the files alone tell of the trace.
        """
        return frame_of_entries(self.entries)

    def __iter__(self) -> Any:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return find_place(key) in self._by_key

    def __repr__(self) -> str:
        return f"<Trace {self.directory}: {counted(len(self), 'tensor')}>"


def _open_with_manifest(directory: Path) -> Trace:
    entries, info = read_manifest(directory)
    known = [entry for entry in entries if entry.stage in STAGE_BY_NAME]
    # A later version may have stages that this one does not, and a capture those of a family that is not here.
    unknown = [
        Unread(
            entry.file or entry.label,
            f"the manifest says that it is {entry.stage}, which is no stage here, nor one that its graph declares",
        )
        for entry in entries
        if entry.stage not in STAGE_BY_NAME
    ]
    return Trace(directory, known, info, [*unknown, *beside_manifest(directory, {entry.file for entry in entries})])

"""Trace directories: APRT files and the manifest ``trace.json`` beside them.

The manifest is written last and atomically, so a directory with one is complete. It holds no clock and no absolute
path: the same run gives the same bytes. Directories without a manifest (as ``apr`` writes them) are read too; then
shapes are unknown and tensors are flat. A manifest of somebody else's tensors has no graph (``null``), and may not know
the tokens (an empty list).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import GraphError, TraceError, shown
from aprgraph.graph.ir import Graph
from aprgraph.graph.stages import execution_key
from aprgraph.graph.text import parse_graph
from aprgraph.runtime.aprt import F32, read_aprt
from aprgraph.runtime.statistics import Statistics
from aprgraph.runtime.unread import Unread, beside_manifest

MANIFEST = "trace.json"
#: There, and locked, while a run writes; what an interrupted run leaves.
MARKER = "trace.incomplete"
FORMAT = "aprgraph-trace"
VERSION = 1
#: What a run can say that it computed in; the last: in float32, activations rounded to 8 bits before each quantised matmul.
ARITHMETICS = ("float64", "float32", "float16", "bfloat16", "q8-activations")


@dataclass(frozen=True)
class TraceEntry:
    """One tensor of a trace. ``file`` is relative to the directory, or None if only statistics were kept."""

    stage: str
    layer: int | None
    step: int
    shape: tuple[int, ...]
    file: str | None
    node: str | None = None
    statistics: Statistics | None = None

    @property
    def key(self) -> tuple[int, int | None, str]:
        """What two traces are paired by: step, layer, stage."""
        return (self.step, self.layer, self.stage)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key: step, then execution order."""
        return (self.step, *execution_key(self.layer, self.stage))

    @property
    def label(self) -> str:
        """What a person calls it: ``layer 3 ffn_gate``, ``lm_head``, ``step 2 layer 0 attn_out``."""
        where = self.stage if self.layer is None else f"layer {self.layer} {self.stage}"
        return where if self.step == 0 else f"step {self.step} {where}"


@dataclass(frozen=True)
class TraceInfo:
    """What a manifest says about the run as a whole.

    ``model`` has a ``fingerprint`` where the file was at hand. ``tokens`` is empty where they are not known, and ``graph_text``
    where there is no graph: both so in captures of other programs. These say in ``extra`` what wrote them (``writer``),
    what it computed in (``arithmetic``, one of ARITHMETICS), whether its ``weights`` were ``"float"`` or ``"quantised"``, and
    in ``notes``, a list of sentences, what else a reader should know. ``generated``, there too, are the tokens of the steps.
    """

    model: Mapping[str, Any]
    target: str
    tokens: tuple[int, ...]
    plan: str
    positions: str
    graph_text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Trace:
    """A trace directory. ``entries`` are in execution order; ``info`` is None where there is no manifest.

    ``unread`` are the files that look like tensors and that no entry is of, each with why: misnamed, in another form, of another run.
    """

    def __init__(self, directory: Path, entries: Sequence[TraceEntry], info: TraceInfo | None, unread: Sequence[Unread] = ()) -> None:
        self.directory = directory
        self.unread = tuple(unread)
        self.entries = tuple(sorted(entries, key=lambda entry: entry.order))
        self.info = info
        self._by_key = {entry.key: entry for entry in self.entries}

    @staticmethod
    def open(directory: str | Path) -> Trace:
        """Open a directory with or without a manifest. Raises TraceError."""
        directory = Path(directory)
        if not directory.is_dir():
            raise TraceError(f"{directory}: not a directory; expected a trace directory, such as `aprgraph run --taps all` writes")
        if (directory / MARKER).exists():
            raise TraceError(
                f"{directory}: a run is writing there, or was interrupted ({MARKER}); its tensors may be of two runs: trace again"
            )
        if (directory / MANIFEST).is_file():
            return _open_with_manifest(directory)
        from aprgraph.runtime.bare_trace import open_bare  # noqa: PLC0415 -- it needs this module

        return open_bare(directory)

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
        of one position among others of n is that of the last position.

        ``tokens`` are those of step 0 and ``generated`` those of the steps after it, where they are known. ``model`` is
        the model's name, or what the manifest is to say of it. Where ``arithmetic`` is not given and some tensors are float16,
        bfloat16 or float8, it is taken for that, with a note. For the rest see TraceInfo.

        An earlier trace of the same ``writer`` (else ``target``) in ``directory`` is replaced whole; what else is there is written
        over only with ``force``, and stays where it is not in the way.

        Raises TraceError, before anything is written, for places that hold something else, and for names, layers, types and
        shapes that the stage table does not have.
        """
        from aprgraph.runtime.trace_arrays import write_arrays  # noqa: PLC0415 -- it needs this module

        described = {"name": model} if isinstance(model, str) else dict(model)
        extra: dict[str, Any] = {"arithmetic": arithmetic, "weights": weights, "writer": writer}
        extra |= {"generated": [] if generated is None else list(generated), "notes": list(notes)}
        given = {key: value for key, value in extra.items() if value}
        return write_arrays(directory, tensors, () if tokens is None else tokens, described, target, given, force=force)

    def get(self, stage: str, layer: int | None = None, step: int = 0) -> TraceEntry:
        """The entry of one tensor. Raises TraceError if it was not recorded."""
        try:
            return self._by_key[(step, layer, stage)]
        except KeyError:
            label = TraceEntry(stage, layer, step, (), None).label
            raise TraceError(f"{self.directory}: {label} was not recorded; tap it with --taps and --layers") from None

    def tensor(self, stage: str, layer: int | None = None, step: int = 0) -> F32:
        """One tensor as f32 in its shape, memory-mapped read-only (flat where the shape is unknown). Raises TraceError."""
        return self.load(self.get(stage, layer, step))

    def load(self, entry: TraceEntry) -> F32:
        """The tensor of ``entry``; see ``tensor``."""
        if entry.file is None:
            raise TraceError(f"{self.directory}: {entry.label} has statistics only; run again without --stats-only")
        path = self.directory / entry.file
        layer, values = read_aprt(path)
        if layer != entry.layer:
            raise TraceError(f"{path}: its header names {whose(layer)}, expected {whose(entry.layer)}; written by another run?")
        if math.prod(entry.shape) != values.size:
            dims = " x ".join(map(str, entry.shape))
            raise TraceError(f"{path}: {values.size} elements, but the manifest says {dims}; written by another run?")
        return values.reshape(entry.shape)

    def with_shapes(self, shapes: Mapping[tuple[int, int | None, str], tuple[int, ...]]) -> Trace:
        """The same trace with the shapes of some tensors, by (step, layer, stage), which must be of as many elements."""
        changed = copy.copy(self)
        Trace.__init__(
            changed, self.directory, [replace(entry, shape=shapes.get(entry.key, entry.shape)) for entry in self], self.info, self.unread
        )
        return changed

    def graph(self) -> Graph | None:
        """The graph that was run, with its taps; None where there is no manifest, or none in it."""
        return parse_graph(self.info.graph_text) if self.info is not None and self.info.graph_text else None

    def __iter__(self) -> Any:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key


def _open_with_manifest(directory: Path) -> Trace:
    entries, info = read_manifest(directory)
    return Trace(directory, entries, info, beside_manifest(directory, {entry.file for entry in entries}))


def read_manifest(directory: Path, *, with_graph: bool = True) -> tuple[list[TraceEntry], TraceInfo]:
    """What the manifest of ``directory`` says; ``with_graph``: its graph is parsed too, which takes most of the time. Raises TraceError."""
    path = directory / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            found = f"format {shown(document['format'])} version {shown(document['version'])}"
            raise TraceError(f"{path}: {found}, expected {FORMAT!r} version {VERSION}")
        entries = [_entry_from_json(directory, item) for item in document["tensors"]]
        if len({entry.key for entry in entries}) < len(entries):
            raise TraceError(f"{path}: a tensor appears twice; run the trace again")
        known = {"format", "version", "model", "target", "tokens", "positions", "plan", "tensors", "graph"}
        info = TraceInfo(
            model=dict(document["model"]),
            target=_text(document["target"]),
            tokens=tuple(_whole(token) for token in document["tokens"]),
            plan=_text(document["plan"]),
            positions=_text(document["positions"]),
            graph_text="" if document["graph"] is None else "\n".join(document["graph"]) + "\n",
            extra={key: value for key, value in document.items() if key not in known},
        )
        if with_graph and info.graph_text:
            parse_graph(info.graph_text)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise TraceError(f"{path}: not a whole trace manifest: {error} is missing; run the trace again") from None
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError, GraphError) as error:
        raise TraceError(f"{path}: not a whole trace manifest ({error}); run the trace again") from None
    return entries, info


def _entry_from_json(directory: Path, item: Mapping[str, Any]) -> TraceEntry:
    """The inverse of ``_entry_to_json``. Raises KeyError or TypeError for what is not one."""
    return TraceEntry(
        stage=_text(item["stage"]),
        layer=None if item["layer"] is None else _whole(item["layer"]),
        step=_whole(item["step"]),
        shape=tuple(_whole(dim) for dim in item["shape"]),
        file=None if item["file"] is None else _inside(directory, _text(item["file"])),
        node=None if item["node"] is None else _text(item["node"]),
        statistics=Statistics.from_json(item["statistics"]),
    )


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{shown(value)}, expected a whole number of at least 0")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)}, expected text")
    return value


def _inside(directory: Path, file: str) -> str:
    """``file``, which must stay inside the trace directory."""
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise TraceError(f"{directory / MANIFEST}: the file {file!r} lies outside the trace directory")
    return file


def whose(layer: int | None) -> str:
    """The layer of an APRT header, in words."""
    return "the whole model" if layer is None else f"layer {layer}"

"""The manifest ``trace.json`` of a trace directory: what ran, and which tensors it recorded.

It is written last and atomically, so a directory with one is complete. It holds no clock and no absolute path: the same run gives
the same bytes. A manifest of somebody else's tensors has no graph (``null``), and may not know the tokens (an empty list).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import GraphError, TraceError, shown
from aprgraph.graph.stages import STAGE_BY_NAME, execution_key
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import MAX_ELEMENTS
from aprgraph.runtime.trace.manifest_form import FORMAT, TRACE, TRACE_FILE, VERSION
from aprgraph.runtime.trace.manifest_graph import why_no_graph
from aprgraph.runtime.trace.statistics import Statistics

MANIFEST = "trace.json"
#: There, and locked, while a run writes; what an interrupted run leaves.
MARKER = "trace.incomplete"
#: In ``extra``: which rows of a head of q or k RoPE turns together, "interleaved" (2i, 2i + 1) or "halves" (i, i + D/2).
QK_ROWS = "qk_rows"
#: Likewise, of tensors that were cut: how many positions of padding stood before the text.
PADDING = "padding_before"
#: The arithmetic of an engine that a run was computed in, with its options (graph/arithmetics.py).
ENGINE_ARITHMETIC = "engine_arithmetic"
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

    @cached_property
    def key(self) -> Place:
        """What two traces are paired by: step, layer, stage."""
        return Place(self.step, self.layer, self.stage)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key: step, then execution order."""
        return (self.step, *execution_key(self.layer, self.stage))

    @property
    def label(self) -> str:
        """What a person calls it: ``layer 3 ffn_gate``, ``lm_head``, ``step 2 layer 0 attn_out``."""
        return self.key.label


@dataclass(frozen=True)
class TraceInfo:
    """What a manifest says about the run as a whole.

    ``model`` has a ``fingerprint`` where the file was at hand. ``tokens`` is empty where they are not known, and ``graph_text``
    where there is no graph: both so in captures of other programs. These say in ``extra`` what wrote them (``writer``),
    what it computed in (``arithmetic``, one of ARITHMETICS), whether its ``weights`` were ``"float"`` or ``"quantised"``, and
    in ``notes``, a list of sentences, what else a reader should know. ``generated``, there too, are the tokens of the steps, and
    ``qk_rows`` the order of the rows of q and k.
    """

    model: Mapping[str, Any]
    target: str
    tokens: tuple[int, ...]
    plan: str
    positions: str
    graph_text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_manifest(directory: Path, *, with_graph: bool = True) -> tuple[list[TraceEntry], TraceInfo]:
    """What the manifest of ``directory`` says; ``with_graph``: its graph is parsed too, which takes most of the time. Raises TraceError."""
    path = directory / MANIFEST
    document = TRACE_FILE.read(path)
    info = TraceInfo(
        model=dict(document["model"]),
        target=document["target"],
        tokens=tuple(document["tokens"]),
        plan=document["plan"],
        positions=document["positions"],
        graph_text="" if document["graph"] is None else "\n".join(document["graph"]) + "\n",
        extra={key: value for key, value in document.items() if key not in TRACE.fields},
    )
    if with_graph and info.graph_text:
        try:
            why_no_graph(info.graph_text)  # which makes the stages known that it declares
        except GraphError as error:
            first = str(error).partition("\n")[0]
            raise TraceError(f"{path}: not a whole trace manifest ({first}); {TRACE_FILE.advice}") from None
    entries = [_entry_from_json(directory, index, item) for index, item in enumerate(document["tensors"])]
    if len({entry.key for entry in entries}) < len(entries):
        raise TraceError(f"{path}: a tensor appears twice; {TRACE_FILE.advice}")
    return entries, info


def _entry_from_json(directory: Path, index: int, item: Mapping[str, Any]) -> TraceEntry:
    """The inverse of ``_entry_to_json``, of what is of the form TENSOR. Raises TraceError for what makes no sense together."""
    stage, layer = STAGE_BY_NAME.get(item["stage"]), item["layer"]
    if stage is not None and (layer is not None) != stage.per_layer:
        expected = "the number of its layer" if stage.per_layer else "null"
        raise TraceError(
            f"{_where(directory, index)}.layer is {'null' if layer is None else layer}, expected {expected} for {stage.name}; "
            f"{TRACE_FILE.advice}"
        )
    if stage is not None and stage.first_layer_only and layer:
        raise TraceError(
            f"{_where(directory, index)}.layer is {layer}, expected 0 for {stage.name}, which is of layer 0 alone; {TRACE_FILE.advice}"
        )
    if math.prod(item["shape"]) > MAX_ELEMENTS:
        raise TraceError(
            f"{_where(directory, index)}.shape is {shown(item['shape'])}, expected at most {MAX_ELEMENTS} elements; {TRACE_FILE.advice}"
        )
    return TraceEntry(
        stage=item["stage"],
        layer=layer,
        step=item["step"],
        shape=tuple(item["shape"]),
        file=None if item["file"] is None else _inside(directory, item["file"]),
        node=item["node"],
        statistics=Statistics.from_json(item["statistics"]),
    )


def _where(directory: Path, index: int) -> str:
    return f"{directory / MANIFEST}: tensors[{index}]"


def _inside(directory: Path, file: str) -> str:
    """``file``, which must stay inside the trace directory."""
    if file.startswith("/") or ".." in file.split("/"):
        raise TraceError(f"{directory / MANIFEST}: the file {shown(file)} lies outside the trace directory")
    return file


def manifest_text(entries: Sequence[TraceEntry], info: TraceInfo) -> str:
    """The text of a manifest of these tensors, each with its statistics; the inverse of ``read_manifest``."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": dict(info.model),
        "target": info.target,
        "tokens": list(info.tokens),
        "positions": info.positions,
        "plan": info.plan,
        **info.extra,
        "tensors": [_entry_to_json(entry) for entry in entries],
        "graph": info.graph_text.splitlines() if info.graph_text else None,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _entry_to_json(entry: TraceEntry) -> dict[str, Any]:
    assert entry.statistics is not None
    return {
        "stage": entry.stage,
        "layer": entry.layer,
        "step": entry.step,
        "shape": list(entry.shape),
        "file": entry.file,
        "node": entry.node,
        "statistics": entry.statistics.to_json(),
    }

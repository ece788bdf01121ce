"""Real traces by the reference target, and faults in what they recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import aprgraph
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.manifest import MANIFEST, TraceEntry
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.statistics import compute_statistics
from tests.support.traces import Tensor

TOKENS = (3, 1, 4, 1, 5, 9, 2)


def traced(directory: Path, model: Path, *, taps: str = "all", layers: str = "0..2", max_tokens: int = 0, steps: str = "0..1") -> Trace:
    """A trace of the model by the reference target."""
    compiled = aprgraph.load(model).compile("reference", directory.parent / f"{directory.name}.aprg")
    return compiled.run(taps, layers, tokens=TOKENS, directory=directory, max_tokens=max_tokens, steps=steps)


def spoil(trace: Trace, stage: str, layer: int | None, fault: Callable[[Tensor], Tensor], step: int = 0) -> None:
    """Change what the trace has recorded of one tensor, and nothing behind it."""
    entry = trace.get(stage, layer, step)
    rerecord(trace, entry, fault(np.array(trace.load(entry))))


def rerecord(trace: Trace, entry: TraceEntry, values: Tensor) -> None:
    """Record ``values`` in place of a tensor, as an engine would have: with their statistics."""
    values = np.ascontiguousarray(values, np.float32)
    assert entry.file is not None
    write_aprt(trace.directory / entry.file, entry.layer, values)
    manifest = trace.directory / MANIFEST
    statistics = compute_statistics(values)
    trace.__init__(  # type: ignore[misc]
        trace.directory,
        [replace(one, statistics=statistics) if one.key == entry.key and one.statistics is not None else one for one in trace],
        trace.info, trace.unread, has_manifest=trace.has_manifest,
    )  # fmt: skip
    if manifest.exists():
        document = json.loads(manifest.read_text())
        for one in document["tensors"]:
            if one["file"] == entry.file:
                one["statistics"] = statistics.to_json()
        manifest.write_text(json.dumps(document))


def bare(trace: Trace) -> Path:
    """The directory of a trace whose manifest is taken away, as other programs write them."""
    (trace.directory / MANIFEST).unlink()
    return trace.directory


def with_nan(values: Tensor) -> Tensor:
    """``values`` with a NaN at the third position."""
    values[2, 3] = np.nan
    return values

"""Real traces by the reference target, and faults in what they recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import aprgraph
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.manifest import MANIFEST
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import Tensor

TOKENS = (3, 1, 4, 1, 5, 9, 2)


def traced(directory: Path, model: Path, *, taps: str = "all", layers: str = "0..2", max_tokens: int = 0, steps: str = "0..1") -> Trace:
    """A trace of the model by the reference target."""
    compiled = aprgraph.load(model).compile("reference", directory.parent / f"{directory.name}.aprg")
    return compiled.run(taps, layers, tokens=TOKENS, directory=directory, max_tokens=max_tokens, steps=steps)


def spoil(trace: Trace, stage: str, layer: int | None, fault: Callable[[Tensor], Tensor], step: int = 0) -> None:
    """Change what the trace has recorded of one tensor, and nothing behind it."""
    entry = trace.get(stage, layer, step)
    values = np.array(trace.load(entry))
    assert entry.file is not None
    write_aprt(trace.directory / entry.file, layer, np.ascontiguousarray(fault(values), np.float32))


def bare(trace: Trace) -> Path:
    """The directory of a trace whose manifest is taken away, as other programs write them."""
    (trace.directory / MANIFEST).unlink()
    return trace.directory


def with_nan(values: Tensor) -> Tensor:
    """``values`` with a NaN at the third position."""
    values[2, 3] = np.nan
    return values

"""Hand-made traces: tensors from a dict, and whole traces of tiny models from the float64 reference."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import is_tap
from aprgraph.graph.passes import AllPositions, InsertTaps, Prune, run_passes
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import print_graph
from aprgraph.runtime.reference import run_reference
from aprgraph.runtime.trace.aprt import relative_path, write_aprt
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter

Tensor = npt.NDArray[np.float32]
#: The keys are (layer, stage), or (layer, stage, step).
Tensors = Mapping[Any, Tensor]

EMPTY_GRAPH = "graph @none {\n}\n"


def values(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed f32 of ``shape``."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def noisy(tensor: Tensor, size: float = 1e-6, seed: int = 1) -> Tensor:
    """``tensor`` with a relative error of rms ``size`` in every element."""
    return (tensor * (1 + size * values(*tensor.shape, seed=seed).astype(np.float64))).astype(np.float32)


def write_trace(
    directory: Path,
    tensors: Tensors,
    *,
    graph: str = EMPTY_GRAPH,
    tokens: Sequence[int] = (1, 2, 3),
    stats_only: bool = False,
    fingerprint: str = "f",
    extra: Mapping[str, Any] | None = None,
) -> Trace:
    """A trace with a manifest."""
    writer = TraceWriter(directory, stats_only=stats_only)
    for (layer, stage, *step), tensor in tensors.items():
        name = stage if layer is None else f"layer{layer}.{stage}"
        writer.write(name, stage, layer, step[0] if step else 0, tensor)
    model = {"name": "m.gguf", "fingerprint": fingerprint}
    return writer.finish(TraceInfo(model, "reference", tuple(tokens), "all 0..1", "last", graph, extra or {}))


def write_bare(directory: Path, tensors: Tensors) -> Path:
    """APRT files without a manifest, as other programs write them."""
    for (layer, stage, *step), tensor in tensors.items():
        path = directory / relative_path(stage, layer, step[0] if step else 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aprt(path, layer, tensor)
    return directory


def trace_model(
    directory: Path,
    model_path: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    taps: str = "all",
    layers: int = 2,
    tokens: Sequence[int] = (3, 1, 4, 1, 5),
    all_positions: bool = False,
    fault: Callable[[str, Tensor], Tensor] | None = None,
    noise: float = 0.0,
) -> Trace:
    """A trace of a model by the reference interpreter. ``fault(name, value)`` replaces what one node recorded; ``noise``
    is a relative error in each recorded element. Neither reaches the nodes behind it.
    """
    model = load_model(model_path, overrides)  # type: ignore[arg-type]
    passes = [AllPositions()] if all_positions else []
    graph = run_passes(build_graph(model), [*passes, InsertTaps(parse_plan(taps, f"0..{layers}")), Prune()])
    writer = TraceWriter(directory)
    for node, value in run_reference(graph, model, tokens):
        if not is_tap(node):
            continue
        assert node.stage is not None
        name = node.name.removeprefix("tap.")
        # A seed that depends on the directory and the tensor: two traces have different noise, two tensors as well.
        tensor = noisy(value.astype(np.float32), noise, zlib.crc32(f"{directory.name} {name}".encode()))
        writer.write(name, node.stage, node.layer, 0, tensor if fault is None else fault(name, tensor))
    model_info = {"name": model_path.name, "fingerprint": "f"}
    return writer.finish(TraceInfo(model_info, "reference", tuple(tokens), f"{taps} 0..{layers}", "last", print_graph(graph)))

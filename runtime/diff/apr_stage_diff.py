"""The document of `apr diff --values A B --json`, `apr-stage-diff-v1`: two APRT files, element by element.

Fields, arithmetic and refusals are apr's (paiml/aprender, `apr diff`, aprt stage diff; apr-cli-trace-save-tensor-v1): differences in
float32, their squares and the cosine summed in float64.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import ComparisonError
from aprgraph.runtime.trace.aprt import F32, read_aprt, whose

SCHEMA = "apr-stage-diff-v1"


def apr_stage_diff(path_a: str | Path, path_b: str | Path, top: int = 10) -> dict[str, Any]:
    """The document, with the ``top`` largest differences. What is not finite is None.

    Raises TraceError for files that cannot be read, ComparisonError for those of two layers or sizes.
    """
    (layer, a), (other_layer, b) = read_aprt(path_a), read_aprt(path_b)
    if a.size != b.size:
        raise ComparisonError(f"{path_a} has {a.size} elements and {path_b} {b.size}; compared are files of one size")
    if layer != other_layer:
        raise ComparisonError(f"{path_a} is of {whose(layer)} and {path_b} of {whose(other_layer)}; compared are files of one layer")
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.abs(a - b)
        squares = np.square(differences, dtype=np.float64).sum()
        dot, energy_a, energy_b = (float(np.multiply(x, y, dtype=np.float64).sum()) for x, y in ((a, b), (a, a), (b, b)))
    comparable = np.where(np.isnan(differences), np.float32(-1), differences)
    largest = np.argsort(-comparable, kind="stable")[: max(1, top)]
    return {
        "schema": SCHEMA,
        "path_a": str(path_a),
        "path_b": str(path_b),
        "layer": "whole-model" if layer is None else layer,
        "dim_product": a.size,
        "max_abs_diff": _number(max(np.float32(0), comparable.max(initial=0))),
        "max_abs_diff_index": int(comparable.argmax()) if a.size and comparable.max() > 0 else 0,
        "rms_diff": _number(np.float32(math.sqrt(squares / a.size))) if a.size else 0.0,
        "cosine_sim": _finite(dot / (math.sqrt(energy_a) * math.sqrt(energy_b))) if energy_a > 0 and energy_b > 0 else 0.0,
        "top_diffs": [{"index": int(i), "a": _number(a[i]), "b": _number(b[i]), "abs_diff": _number(differences[i])} for i in largest],
    }


def _number(value: F32 | np.float32) -> float | None:
    """A float32 in as few digits as tell it from its neighbours, as apr prints it."""
    return _finite(float(str(np.float32(value))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

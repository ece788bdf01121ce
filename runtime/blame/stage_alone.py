"""What a script of ``--repro`` stands on: the arrays beside it, the ops in float64 NumPy, and the comparison that blame makes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.families import load_family_file
from aprgraph.graph.ir import Attr
from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.diff.shapes import position_axis
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import find_tolerance, kind_of


class StageAlone:
    """One stage, its inputs and weights, in the folder of ``script``."""

    def __init__(self, script: str) -> None:
        self._folder = Path(script).resolve().parent

    def load(self, name: str) -> Array:
        """An array of the folder: token ids and positions as int64, tensors and weights as float64."""
        array: Array = np.load(self._folder / f"{name}.npy")
        return array.astype(np.int64 if array.dtype.kind == "i" else np.float64)

    def op(self, name: str, *operands: Array, earlier: Array | None = None, **attrs: Attr) -> Array:
        """What an op gives, in float64 NumPy: its ``reference`` in aprgraph/graph/ops. ``earlier`` is its state before the pass."""
        if name not in OPS:
            _load_families(name)
        function, state = OPS[name].reference, OPS[name].traits.state
        assert function is not None, f"{name} has no reference"
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return function(operands, attrs) if state is None else state.advance(operands, attrs, earlier)[0]

    def compare(self, expected: Array, stage: str, profile: str, limit: float) -> None:
        """Compare ``actual.npy`` with ``expected`` as blame does a tensor of ``stage``, print how far it is off, and exit.

        The exit code is 0 within ``limit`` and what else ``profile`` allows, else 1, with the reason on stderr.
        """
        actual = np.load(self._folder / "actual.npy")
        with np.errstate(over="ignore", invalid="ignore"):
            due = expected.astype(np.float32).reshape(actual.shape)
        if kind_of(stage) is StageKind.INDEX:
            chosen = compare_indices(actual, due)
            assert chosen is not None
            print(f"another set of ids at {chosen.differing} of {chosen.positions} positions")
            sys.exit(exceeds(chosen, limit))
        metrics = compare_tensors(actual, due, position_axis=position_axis(stage))
        if metrics.max_index is not None:
            worst = metrics.max_index
            print(f"NMSE {metrics.nmse:.2e}, limit {limit:.0e}; worst at {worst}: {actual[worst]:.7g}, expected {due[worst]:.7g}")
        if metrics.mismatched_nonfinite:
            sys.exit(f"NaN or Inf on one side alone, elements: {metrics.mismatched_nonfinite}")
        sys.exit(exceeds(metrics, limit, find_tolerance(profile, stage)))


def _load_families(op: str) -> None:
    """Run the files of families that are the arguments of the script, and exit unless one declares the op ``op``."""
    try:
        for file in sys.argv[1:]:
            load_family_file(file)
    except AprgraphError as error:
        sys.exit(str(error))
    if op not in OPS:
        sys.exit(f"the op {op!r} is not known; a family's file brought it, so give that file: python {sys.argv[0]} FILE.py")

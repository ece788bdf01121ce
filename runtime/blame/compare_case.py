"""What was recorded of one tensor against what its replay gives: right or wrong, by the tensor's limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aprgraph.graph.stages import StageKind
from aprgraph.runtime.blame.doubts import Case
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.element import first_in_words
from aprgraph.runtime.trace.aprt import F32


def compare_case(local: LocalError, case: Case) -> LocalError:
    """``local`` with what the recorded and the computed tensor say of each other."""
    dims = case.tensor.node.type.dims
    metrics = compare_tensors(case.recorded, case.computed, position_axis=dims.index("n") if "n" in dims else None)
    reason = _nonfinite(metrics, local.key.stage) if metrics.mismatched_nonfinite else exceeds(metrics, local.limit, case.tolerance)
    return replace(local, metrics=metrics, state=LocalState.RIGHT if reason is None else LocalState.WRONG, reason=reason)


def compare_any(wrong: LocalError, case: Case) -> LocalError:
    """The same for what was called wrong, ids among them."""
    local = replace(wrong, state=LocalState.RIGHT, reason=None)
    if kind_of(case.tensor.node.stage or "") is not StageKind.INDEX:
        return compare_case(local, case)
    metrics = compare_indices(case.recorded, case.computed)
    assert metrics is not None
    reason = exceeds(metrics, local.limit)
    return replace(local, metrics=metrics, state=LocalState.RIGHT if reason is None else LocalState.WRONG)


def is_far(recorded: F32, computed: F32, most: float) -> bool:
    """Whether the NMSE of the two is surely more than ``most``: by one sum, of what is mostly nothing alike."""
    if recorded.shape != computed.shape:
        return False  # a comparison says what is wrong
    with np.errstate(all="ignore"):
        error, energies = np.subtract(recorded, computed).ravel(), [float(np.vdot(side, side)) for side in (recorded, computed)]
        return float(np.vdot(error, error)) > 2 * most * max(energies)  # False where a sum is beyond float32


def _nonfinite(metrics: TensorMetrics, stage: str) -> str:
    held, due = metrics.nonfinite
    return f"it holds {'no NaN or Inf' if held == 'none' else held}, the replay {due}{first_in_words(stage, metrics.nonfinite_index)}"

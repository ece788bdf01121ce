"""A model file that holds NaN: what a run of it records may be right, and is worth nothing."""

from __future__ import annotations

from dataclasses import replace

from aprgraph.graph.gguf_file import GGUFFile
from aprgraph.runtime.blame.local import Audit, LocalError
from aprgraph.runtime.check.nonfinite import find_nonfinite
from aprgraph.runtime.diff.metrics import TensorMetrics


def see_broken_model(found: Audit, file: GGUFFile) -> Audit:
    """``found``, whose first note says so where the model's own weights make the replay NaN or Inf. Raises ModelFileError."""
    for local in found.locals:
        if not _begins_here(local, found):
            continue
        for weight in find_nonfinite(file, local.weights):
            broken = f"the model file is broken: {weight}, so that {local.label} is NaN or Inf"
            note = (
                f"{broken}; it is damaged, or was made from damaged weights; `aprgraph check {file.path}` lists all that is wrong with it"
            )
            return replace(found, notes=(note, *found.notes), broken=broken)
    return found


def _begins_here(local: LocalError, found: Audit) -> bool:
    """Whether the replay holds NaN or Inf, and nothing that it started from does."""
    if not isinstance(local.metrics, TensorMetrics) or not local.metrics.nan_b + local.metrics.inf_b:
        return False
    sources = (found.by_key.get(key) for key in local.sources)
    before = [source.metrics for source in sources if source is not None and isinstance(source.metrics, TensorMetrics)]
    return not any(metrics.nan_a + metrics.inf_a for metrics in before)

"""A model file that holds NaN: what a run of it records may be right, and is worth nothing."""

from __future__ import annotations

from dataclasses import replace

from aprgraph.graph.arguments import CHECK
from aprgraph.graph.message import Message
from aprgraph.graph.sources.source import Source
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.check.nonfinite import NonfiniteWeight, find_nonfinite
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.element import first_in_words


def see_broken_model(found: Audit, file: Source) -> Audit:
    """``found``, whose first note says so where the model's own weights make the replay NaN or Inf. Raises ModelFileError.

    The tensors that begin to be so are neither right nor wrong: such a model can be no judge of them.
    """
    broken: str | None = None
    looked_at: dict[str, NonfiniteWeight | None] = {}
    locals_ = list(found.locals)
    for index, local in enumerate(found.locals):
        if not _begins_here(local, found):
            continue
        for name in local.weights:
            if name not in looked_at:
                looked_at[name] = next(find_nonfinite(file, [name]), None)
        held = [str(weight) for name in local.weights if (weight := looked_at[name]) is not None]
        if held:
            broken = broken or f"the model file is broken: {', and '.join(held)}, so that {local.label} is NaN or Inf{_first(local)}"
            reason = f"the model file makes it NaN or Inf: {', and '.join(held)}"
            locals_[index] = replace(local, state=LocalState.UNKNOWN, reason=reason, is_open=True)
    if broken is None:
        return found
    check = CHECK.given(file.path, f"aprgraph.check({str(file.path)!r})")
    note = Message(f"{broken}; it is damaged, or was made from damaged weights; `", check, "` lists all that is wrong with it")
    return replace(found, locals=tuple(locals_), notes=(note, *found.notes), broken=broken)


def with_broken_model(sentence: str, *audits: Audit) -> str:
    """A sentence about several traces, and after it that their model is broken, if it is."""
    broken = next((audit.broken for audit in audits if audit.broken is not None), None)
    return sentence if broken is None else Message(sentence, f" But {broken}.")


def _first(local: LocalError) -> str:
    """Where the first NaN or Inf is."""
    assert isinstance(local.metrics, TensorMetrics)
    return first_in_words(local.key.stage, local.metrics.nonfinite_index)


def _begins_here(local: LocalError, found: Audit) -> bool:
    """Whether the replay holds NaN or Inf, and nothing that it started from does."""
    if not isinstance(local.metrics, TensorMetrics) or not local.metrics.nan_b + local.metrics.inf_b:
        return False
    sources = (found.by_key.get(key) for key in local.sources)
    before = [source.metrics for source in sources if source is not None and isinstance(source.metrics, TensorMetrics)]
    return not any(metrics.nan_a + metrics.inf_a for metrics in before)

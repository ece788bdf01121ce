"""A trace of another model than the one that it is replayed by: its hidden states, its family or its products tell."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.suspects import OtherModel
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.trace.reader import Trace

#: Tensors of a cosine below this to their replay have nothing to do with it.
_UNRELATED = 0.3
#: So many tensors have to be so, of so many stages, and this part of all that a matrix makes.
_LEAST, _STAGES, _PART = 4, 3, 0.9
#: Tensors of the hidden size, which nothing splits, that tell it.
_SIZED = 2


def find_other_model(trace: Trace, locals_: Sequence[LocalError], replayed: ReplayedModel) -> OtherModel | None:
    """What says that ``trace`` is of another model than ``replayed``, by the local errors of its tensors; None where that is not so."""
    wrong = [one for one in locals_ if one.state is LocalState.WRONG]
    known = {} if trace.info is None else trace.info.model
    if known.get("fingerprint") == replayed.fingerprint or all(one.explanation for one in wrong):
        return None  # an engine that computes nothing of the very file is wrong by itself
    family = known.get("architecture")
    is_other_family = isinstance(family, str) and family != replayed.model.family.architecture
    is_other_family = is_other_family and len({one.key.stage for one in wrong}) >= _STAGES  # fewer may be a fault of one
    matrices = {name for name, info in replayed.model.file.tensors.items() if len(info.dims) > 1}
    judged = [one for one in locals_ if one.state in (LocalState.RIGHT, LocalState.WRONG) and matrices.intersection(one.weights)]
    unrelated = [one for one in judged if _is_unrelated(one)]
    is_all = len(unrelated) >= max(_LEAST, _PART * len(judged)) and len({one.key.stage for one in unrelated}) >= _STAGES
    if not is_all and not is_other_family:
        return None
    recorded, given = named_models(trace, replayed.model)
    return OtherModel(recorded, str(known["name"]) if recorded else "", given, len(unrelated) if is_all else 0)


def _is_unrelated(local: LocalError) -> bool:
    metrics = local.metrics
    if local.state is not LocalState.WRONG or local.explanation is not None or not isinstance(metrics, TensorMetrics):
        return False
    return metrics.cosine is not None and abs(metrics.cosine) < _UNRELATED


def check_sizes(trace: Trace, replayed: ReplayedModel, graph: Graph) -> None:
    """Raise ComparisonError for a trace whose hidden states are of another size than the model's: it is none of it.

    Where a manifest, or the arrays themselves, say shapes: without, the number of positions is not known either.
    """
    if trace.info is None or trace.info.model.get("fingerprint") == replayed.fingerprint:
        return
    hidden = replayed.model.family.hidden
    nodes = {(node.layer, node.stage): node for node in graph.staged()}
    sized = [entry for entry in trace.entries if (node := nodes.get(entry.key.in_step)) is not None and node.type.dims == ("n", hidden)]
    told = [entry.shape for entry in sized if len(entry.shape) == 2]
    sizes = {shape[1] for shape in told}
    if len(told) < _SIZED or len(told) < len(sized) or len(sizes) != 1 or any(hidden in shape for shape in told):
        return
    recorded, given = named_models(trace, replayed.model)
    named = f"its manifest names {recorded}, and " if recorded else ""
    raise ComparisonError(
        f"{trace.directory} is a trace of another model than {given}: {named}its hidden states ({sized[0].label}) have {sizes.pop()} "
        f"columns where {replayed.model.path.name} has {hidden}; give the model that it is a run of"
    )


def named_models(trace: Trace, given: Model) -> tuple[str, str]:
    """The model that a manifest names, empty where it names none, and ``given``, with their families where these differ."""
    known = trace.info.model if trace.info is not None else {}
    name, family, own = known.get("name"), known.get("architecture"), given.family.architecture
    if not isinstance(name, str) or not name:
        return "", given.path.name
    if isinstance(family, str) and family != own:
        return f"{name} ({family})", f"{given.path.name} ({own})"
    return (f"another {name}" if name == given.path.name else name), given.path.name

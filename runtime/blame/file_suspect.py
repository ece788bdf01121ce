"""The model file is a suspect too: where a trace of another file is not what this one computes, the fault may be the file's.

The replay judges by the model that it was given. A trace whose manifest names that file by its fingerprint read the same weights, so
it is wrong by itself; of any other, nobody knows whether the engine or the file departs from the original checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aprgraph.graph.errors import shown
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model
from aprgraph.graph.model_keys import keys_of_ops
from aprgraph.graph.ops import traits_of
from aprgraph.runtime.blame.keys_at_fault import could_be_at_fault
from aprgraph.runtime.blame.local_errors import LocalError
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.suspects import FileSuspect
from aprgraph.runtime.check.finding import Level
from aprgraph.runtime.check.weights import judge_some
from aprgraph.runtime.place_names import NAMED
from aprgraph.runtime.trace.reader import Trace

#: The NMSE of a stage whose weights were rounded to a format, with some room.
_ROUNDING = {"F16": 2e-7, "BF16": 2e-5}
#: Beyond this a look at the weights would take longer than the audit; `aprgraph check` reads them all.
_MOST_BYTES = 256 << 20
#: Whole numbers that no tensor's size contradicts when they are wrong.
_UNCHECKED = ("rope.dimension_count", "attention.sliding_window", "rope.scaling.original_context_length", "expert_used_count")


def is_run_of(trace: Trace, model: ReplayedModel) -> bool:
    """Whether the manifest says that the trace was computed from the file of ``model``: by fingerprint, and by digest if it has one."""
    return trace.info is not None and trace.info.model.get("fingerprint") == model.fingerprint and not differs_unseen(trace, model)


def differs_unseen(trace: Trace, model: ReplayedModel) -> bool:
    """Whether the file that the manifest names by all of its bytes has the fingerprint of ``model``, and is another."""
    if trace.info is None or trace.info.model.get("fingerprint") != model.fingerprint:
        return False
    return "digest" in trace.info.model and trace.info.model["digest"] != model.digest


def suspect_file(wrong: Sequence[LocalError], model: Model, graph: Graph) -> FileSuspect:
    """What of the file the first wrong tensor of each stage reads; of its keys, those that what explains these leaves open."""
    first = {local.key.stage: local for local in reversed(wrong)}
    firsts = [local for local in wrong if first[local.key.stage] is local]
    weights = dict.fromkeys(name for local in firsts for name in local.weights)
    nodes = [graph[name] for local in firsts for name in local.region if name in graph]
    ops = {traits_of(node).variant_of or node.op for node in nodes}
    seen = (*_look(model, list(weights)[:NAMED]), *_rounded(model, firsts))
    absent, there = _keys(could_be_at_fault(keys_of_ops(ops), wrong), model)
    guessed = tuple(words for words, value in absent if isinstance(value, float))
    return FileSuspect(model.path.name, tuple(weights), (*(words for words, _ in absent), *there), seen, guessed)


def _rounded(model: Model, wrong: Sequence[LocalError]) -> Iterator[str]:
    """Whether errors are what it costs to round a checkpoint's weights to the half precision that the file has them in."""
    infos = [model.file.tensors[name] for local in wrong for name in local.weights if name in model.file.tensors]
    formats = sorted({info.format.name for info in infos if len(info.dims) > 1})
    largest = max((local.error or 0.0 for local in wrong), default=0.0)
    if formats and set(formats) <= set(_ROUNDING) and 0 < largest <= max(_ROUNDING[name] for name in formats):
        yield (
            f"these weights are {' and '.join(formats)}, and errors of up to {largest:.0e} are what rounding to that costs: the other side "
            "may have them in float32"
        )


def _look(model: Model, names: Sequence[str]) -> Iterator[str]:
    """What is wrong with weights, as `aprgraph check` sees it; of more than _MOST_BYTES nothing is read."""
    tensors = model.file.tensors
    if not names or sum(tensors[name].nbytes for name in names if name in tensors) > _MOST_BYTES:
        return
    for finding in judge_some(model.file, names):
        if finding.rule.level is not Level.NOTE:
            yield f"{finding.name}: {finding.rule.title}: {finding.text}"


def _keys(names: Sequence[str], model: Model) -> tuple[list[tuple[str, object]], list[str]]:
    """Keys of these names in words: absent ones with what was taken in their place, and those that are there.

    What a file does not say is guessed more often than misread.
    """
    prefix = model.family.architecture
    absent: list[tuple[str, object]] = []
    there = []
    # Real numbers first: a size that is wrong contradicts the tensors, a base of RoPE nothing.
    keys = sorted(names, key=lambda suffix: not isinstance(model.defaults.get(f"{prefix}.{suffix}"), float))
    for suffix in keys:
        key = f"{prefix}.{suffix}"
        value = model.metadata.get(key)
        if key in model.defaults:
            absent.append((f"{key} (absent: {_shown(model.defaults, key)} was taken)", model.defaults[key]))
        elif isinstance(value, (float, str, bool)) or (value is not None and suffix in _UNCHECKED):
            there.append(f"{key} = {_shown(model.metadata, key)}")
    return absent, there


def _shown(values: Mapping[str, object], key: str) -> str:
    value = values[key]
    return f"{value:.6g}" if isinstance(value, float) else shown(value)

"""What the metadata leave unsaid, say to nobody, or say that llama.cpp reads otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator

from aprgraph.graph.model import Model
from aprgraph.graph.model_keys import difference_to_llama_cpp, find_model_key
from aprgraph.graph.unread_keys import is_neutral, surroundings_of, unread_keys
from aprgraph.runtime.check.finding import Finding

#: The base of RoPE that is taken where nobody knows better; a family with another one knows its own.
_USUAL_BASE = 10000.0
#: Without it all of a head is turned, which is usual.
_TURNED = "rope.dimension_count"
#: What values of some keys lie between in models that were trained.
_USUAL_RANGES = {
    "attention.layer_norm_rms_epsilon": (1e-8, 1e-3),
    "rope.freq_base": (1e3, 1e12),
    "rope.freq_base_swa": (1e3, 1e10),
    "rope.scaling.factor": (1.0, 1024.0),
}


def judge_keys(model: Model) -> Iterator[Finding]:
    """Of a model that opens, as far as its tensors allow."""
    metadata, architecture = model.metadata, model.family.architecture
    rows, vocabulary = model.vocabulary, metadata.get(f"{architecture}.vocab_size")
    if isinstance(vocabulary, int) and model.has("token_embd.weight") and vocabulary != rows:
        yield Finding.of("key-rows", f"{architecture}.vocab_size", f"is {vocabulary:,}, token_embd.weight has {rows:,} rows")
    for unread in unread_keys(model.family):
        yield Finding.of("key-unsupported" if unread.refused else "key-unread", unread.key, unread.sentence.removeprefix(f"{unread.key} "))
    yield from _odd_values(model)
    yield from _defaults(model)
    yield from _differences(model)


def _odd_values(model: Model) -> Iterator[Finding]:
    for name, (least, most) in _USUAL_RANGES.items():
        key = f"{model.family.architecture}.{name}"
        value = model.metadata.get(key)
        known = find_model_key(name)
        if isinstance(value, (int, float)) and not least <= value <= most and not (known is not None and is_neutral(known, value)):
            yield Finding.of("key-odd", key, f"is {value:.6g}, where models have values from {least:g} to {most:g}")


def _defaults(model: Model) -> Iterator[Finding]:
    """Keys that are not there. Of those that llama.cpp does not read no converter writes any, so their absence says nothing."""
    architecture, doubtful = model.family.architecture, model.doubtful_defaults
    for key, sentence in doubtful.items():
        known = key.endswith(".rope.freq_base") and model.family.rope_base != _USUAL_BASE
        yield Finding.of("key-default" if known else "key-absent", key, sentence.removeprefix(f"{key} "))
    unsaid = {_TURNED, *model.family.absent_keys}
    for key, value in model.defaults.items():
        name = key.removeprefix(f"{architecture}.")
        if key not in doubtful and name not in unsaid and difference_to_llama_cpp(architecture, name) is None:
            shown = f"{value:.10g}" if isinstance(value, float) else value
            yield Finding.of("key-default", key, f"{shown} was taken")


def _differences(model: Model) -> Iterator[Finding]:
    """Keys that were read, bear on the numbers of this file, and that llama.cpp reads otherwise or not at all."""
    architecture = model.family.architecture
    at = surroundings_of(model.family)
    for name, value in at.values.items():
        key, known = f"{architecture}.{name}", find_model_key(name)
        difference = difference_to_llama_cpp(architecture, name)
        if difference is None or known is None or key not in model.metadata.keys_read or is_neutral(known, value) or not known.matters(at):
            continue
        _, taken = known.llama_cpp_of.get(architecture, ("", known.llama_cpp_takes))
        if not known.llama_cpp_when(at):
            continue
        if value == taken or (isinstance(value, float) and isinstance(taken, float) and math.isclose(value, taken, rel_tol=1e-6)):
            continue
        yield Finding.of("key-differs", key, f"is {value}: {difference}")

"""Faults before the first layer and behind the last: embedding, head, and what a run is given."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import Sites, either, once, where
from tests.zoo.planting import Call, Fault, Patch, Plant, Site
from tests.zoo.subjects import TOKENS, Subject

#: Stands for the tokens of an empty block of thoughts, which a chat template puts before the answer.
_THOUGHTS = (7, 8)


def _in_bfloat16(scale: float) -> float:
    return float(ml_dtypes.bfloat16(scale))


def _rounded_scale(call: Call) -> Array:
    return call.compute(scale=_in_bfloat16(call.node.attr_float("scale")))


def _embedding(call: Call) -> Array:
    return call.subject.weight("token_embd.weight")


def _never_loaded(call: Call) -> Array:
    """What a head that was never loaded may hold: random numbers of the usual size."""
    shape = call.operands[1].shape
    return (np.random.default_rng(0).standard_normal(shape) * shape[1] ** -0.5).astype(np.float32)


def _head_with(tied: bool, weight: Patch) -> Sites:
    """The head, before a cap or scale of the logits, multiplies by something else: in models where it is ``tied``, or in the others."""
    head = either(*(once({name: reading(1, weight)}, "lm_head_raw", "lm_head") for name in ("lm_head_raw", "lm_head_matmul", "lm_head")))
    return where(lambda subject: subject.model.has("output.weight") != tied, head)


def _lookup(patch: Patch, steps: range = range(1)) -> Sites:
    """Where rows of the embedding table are looked up: that is the embedding itself where positions have none."""
    return either(*(once({name: patch}, "embedding", steps=steps) for name in ("layer0.embedding_of_tokens", "layer0.embedding")))


def _given(tokens: tuple[int, ...]) -> Sites:
    """The run has other tokens than the one that it is compared with."""
    return lambda _subject: [Site(None, Plant(), frozenset(), tokens)]


def _makes_logits_by(op: str) -> Callable[[Subject], bool]:
    return lambda subject: any(node.stage == "lm_head" for node in subject.graph.with_op(op))


def _scales_embeddings(subject: Subject) -> bool:
    return subject.graph["layer0.embedding"].attrs.get("scale", 1.0) != 1.0


def _has_a_scale_beyond_bfloat16(subject: Subject) -> bool:
    scale = subject.graph["layer0.embedding"].attrs.get("scale", 1.0)
    return isinstance(scale, float) and scale != _in_bfloat16(scale)


def _shifted(tokens: Array) -> Array:
    return np.concatenate([tokens[:1], tokens[:-1]])


FAULTS = (
    Fault(
        "embedding scale forgotten",
        "graph",
        "Embedding rows are not multiplied by the root of E, or their scale.",
        where(_scales_embeddings, once({"layer0.embedding": with_attrs(scale=1.0)}, "embedding")),
    ),
    Fault(
        "embedding scale in bfloat16",
        "graph",
        "The root of E is rounded to bfloat16 before embedding rows are multiplied by it.",
        where(_has_a_scale_beyond_bfloat16, once({"layer0.embedding": _rounded_scale}, "embedding")),
        seen="huggingface/transformers#37109",
    ),
    Fault(
        "tokens shifted",
        "input",
        "Every position but the first gets the embedding of the token before.",
        _lookup(reading(0, lambda call: _shifted(call.operands[0]))),
    ),
    Fault(
        "embedding of the next position",
        "input",
        "Positions are counted from 1 where they are embedded.",
        once({"layer0.embedding_of_positions": reading(0, lambda call: call.operands[0] + 1)}, "embedding"),
    ),
    Fault(
        "embedding of positions forgotten",
        "graph",
        "Embeddings of tokens alone go into the first layer.",
        where(lambda subject: "layer0.embedding_of_positions" in subject.graph, once({"layer0.embedding": left_out}, "embedding")),
    ),
    Fault(
        "stale token",
        "input",
        "The first decoded step gets a token of the prompt in place of the one that was generated.",
        _lookup(reading(0, lambda call: np.array(TOKENS[-2:-1])), steps=range(1, 2)),
        variants=("generating",),
    ),
    Fault(
        "logits of another position",
        "kernel",
        "The head reads the last position but one.",
        once({"last_position": lambda call: call.operands[0][-2:-1]}, "lm_head", "lm_head_raw"),
    ),
    Fault(
        "soft cap of the logits forgotten",
        "graph",
        "The logits are not capped.",
        where(_makes_logits_by("soft_cap"), once({"lm_head": left_out}, "lm_head")),
    ),
    Fault(
        "scale of the logits forgotten",
        "graph",
        "The logits are not divided, or multiplied, by their scale.",
        where(_makes_logits_by("scale"), once({"lm_head": left_out}, "lm_head")),
    ),
    Fault(
        "final norm forgotten", "graph", "The last hidden state goes to the head as it is.", once({"final_norm": left_out}, "final_norm")
    ),
    Fault(
        "untied head taken for tied",
        "weights",
        "The embedding table serves as the head of a model that has one of its own.",
        _head_with(tied=False, weight=_embedding),
        seen="pegainfer-project/pegainfer#544",
    ),
    Fault(
        "tied head taken for untied",
        "weights",
        "The head of a model that has none of its own holds what no file gave it.",
        _head_with(tied=True, weight=_never_loaded),
        seen="vllm-project/vllm#53020",
    ),
    Fault(
        "thoughts in the template",
        "input",
        "The chat template adds an empty block of thoughts.",
        _given((*TOKENS[:-1], *_THOUGHTS, TOKENS[-1])),
    ),
    Fault(
        "two tokens of beginning",
        "input",
        "The token that begins a text is put in front twice.",
        _given((TOKENS[0], *TOKENS)),
        seen="abetlen/llama-cpp-python#1501",
    ),
)

"""When a key of the metadata matters: what else a file says, and what its family makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Surroundings:
    """What decides whether a key matters: the other keys of its model, by their names here, and what the family makes of them."""

    values: Mapping[str, object]
    activation: str
    head_size: int
    shared_expert: bool

    def __getitem__(self, name: str) -> object:
        return self.values.get(name)


def always(_at: Surroundings) -> bool:
    """It does."""
    return True


def stretched(at: Surroundings) -> bool:
    """RoPE was stretched."""
    return at["rope.scaling.type"] != "none"


def with_yarn(at: Surroundings) -> bool:
    """RoPE was stretched by YaRN."""
    return at["rope.scaling.type"] == "yarn"


def with_another_magnitude(at: Surroundings) -> bool:
    """YaRN's factor of the cosines and sines, where it is not the one that follows from the stretching, 0.1 · ln(factor) + 1."""
    factor, magnitude = at["rope.scaling.factor"], at["rope.scaling.yarn_attn_factor"]
    if not (isinstance(factor, float) and isinstance(magnitude, float) and factor >= 1):
        return with_yarn(at)
    return with_yarn(at) and not math.isclose(magnitude, 0.1 * math.log(factor) + 1, rel_tol=1e-6)


def with_experts(at: Surroundings) -> bool:
    """There are experts."""
    return at["expert_count"] not in (None, 0)


def with_expert_groups(at: Surroundings) -> bool:
    """There are several groups of experts."""
    return with_experts(at) and at["expert_group_count"] not in (None, 0, 1)


def with_softmax(at: Surroundings) -> bool:
    """The weights of experts are shares of a softmax."""
    return at["expert_gating_func"] in (None, 0, 1)


def with_growing_queries(at: Surroundings) -> bool:
    """Queries are scaled by their position."""
    return at["attention.temperature_scale"] not in (None, 0)


def with_norms_inside(at: Surroundings) -> bool:
    """There are norms of latents, or of what a selective state space reads."""
    return at["attention.kv_lora_rank"] is not None or at["ssm.dt_b_c_rms"] is True


def without_shared_expert(at: Surroundings) -> bool:
    """There are experts, and not the one shared expert that the family has."""
    return with_experts(at) and not (at.shared_expert and at["expert_shared_count"] == 1)


def shares_otherwise_than_from_the_21st(at: Surroundings) -> bool:
    """Other layers share keys than all from the 21st on."""
    layers, shared = at["block_count"], at["attention.shared_kv_layers"]
    return not (isinstance(layers, int) and isinstance(shared, int)) or shared != max(layers - 20, 0)


def with_pooling(at: Surroundings) -> bool:
    """A text's positions are made one embedding."""
    return at["pooling_type"] not in (None, 0)


def with_window(at: Surroundings) -> bool:
    """A window that is not as wide as the context."""
    window, context = at["attention.sliding_window"], at["context_length"]
    return isinstance(window, int) and window != 0 and not (isinstance(context, int) and window >= context)


def without(name: str, also: Callable[[Surroundings], bool] = always) -> Callable[[Surroundings], bool]:
    """For a key that is read where the key ``name`` is not there."""
    return lambda at: at[name] is None and also(at)


def differs_in_window(name: str) -> Callable[[Surroundings], bool]:
    """For the key of the layers with a window that goes with the key ``name``, which is the head size where it is not there."""

    def differs(at: Surroundings) -> bool:
        return with_window(at) and at[f"{name}_swa"] != (at.head_size if at[name] is None else at[name])

    return differs


#: What files call the activations of the graph (graph/ops/elementwise.py).
_ACTIVATION_NAMES: Mapping[str, tuple[str, ...]] = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu_pytorch_tanh", "gelu_tanh", "gelu_new"),
    "relu_squared": ("relu2", "relu_squared"),
}


def other_activation(at: Surroundings) -> bool:
    """It names another activation than the family has."""
    return at["hidden_activation"] not in _ACTIVATION_NAMES.get(at.activation, (at.activation,))

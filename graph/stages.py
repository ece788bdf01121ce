"""The stages of a forward pass: names, order, shapes, meaning. This table lists them all, but those that a family of its own brings.

The names, their order and the file layout are shared with the Rust tool ``apr`` (``apr trace --save-tensor`` and
``apr diff --values``), except for the stages marked as this project's additions.

Dimension letters: n = positions in this pass, t = positions attended to, H = query heads, K = KV heads, D = head size,
E = hidden size, F = FFN size, V = vocabulary, X = experts, k = experts used per position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from aprgraph.graph.errors import AprgraphError, shown

#: What a stage may be called: its files and `--taps` bear the name.
_NAME = re.compile(r"[a-z][a-z_]*")


class StageKind(Enum):
    """What arithmetic produces a stage; tolerances are chosen by it."""

    LOOKUP = "lookup"
    MATMUL = "matmul"
    NORM = "norm"
    ELEMENTWISE = "elementwise"
    ROPE = "rope"
    SOFTMAX = "softmax"
    INDEX = "index"


@dataclass(frozen=True)
class Stage:
    """One named point of the forward pass.

    ``dims`` are the letters of the module docstring; ``per_layer`` is false for whole-model stages, whose file lies at
    the root of a trace. ``first_layer_only`` stages have a layer, but exist in layer 0 alone.
    """

    name: str
    dims: tuple[str, ...]
    kind: StageKind
    summary: str
    per_layer: bool = True
    first_layer_only: bool = False
    addition: bool = False

    @property
    def is_logits(self) -> bool:
        """Whether it is a number for each token id: of the last position alone, unless all are asked for."""
        return self.dims == ("V",)


_K = StageKind

#: In execution order.
STAGES: list[Stage] = [
    Stage("embedding", ("n", "E"), _K.LOOKUP, "token embedding rows, scaled where the model scales them", first_layer_only=True),
    Stage("attn_norm", ("n", "E"), _K.NORM, "after the attention RMSNorm"),
    Stage("qkv_matmul", ("n", "(H+2K)*D"), _K.MATMUL, "q, k, v projections side by side, before the bias"),
    Stage("qkv_bias", ("n", "(H+2K)*D"), _K.ELEMENTWISE, "after the bias, where the model has one"),
    Stage("q_norm", ("n", "H*D"), _K.NORM, "q after its per-head RMSNorm", addition=True),
    Stage("k_norm", ("n", "K*D"), _K.NORM, "k after its per-head RMSNorm", addition=True),
    Stage("q_post_rope", ("n", "H*D"), _K.ROPE, "q after RoPE"),
    Stage("k_post_rope", ("n", "K*D"), _K.ROPE, "k after RoPE"),
    Stage("attn_scores", ("H", "n", "t"), _K.MATMUL, "scaled q·k before the softmax, 0 at masked positions"),
    Stage("attn_softmax", ("H", "n", "t"), _K.SOFTMAX, "after the softmax, 0 at masked positions"),
    Stage("attention", ("n", "H*D"), _K.MATMUL, "softmax · v, before the output projection"),
    Stage("attn_out", ("n", "E"), _K.MATMUL, "after the output projection"),
    Stage("attn_post_norm", ("n", "E"), _K.NORM, "after the norm of the attention output", addition=True),
    Stage("post_attn_residual", ("n", "E"), _K.ELEMENTWISE, "hidden state after the attention residual add"),
    Stage("ffn_norm", ("n", "E"), _K.NORM, "after the FFN RMSNorm"),
    Stage("ffn_gate", ("n", "F"), _K.MATMUL, "gate projection"),
    Stage("ffn_up", ("n", "F"), _K.MATMUL, "up projection"),
    Stage("ffn_silu", ("n", "F"), _K.ELEMENTWISE, "act(gate)"),
    Stage("ffn_swigl", ("n", "F"), _K.ELEMENTWISE, "act(gate) · up"),
    Stage("ffn_out", ("n", "E"), _K.MATMUL, "after the down projection"),
    Stage("ffn_post_norm", ("n", "E"), _K.NORM, "after the norm of the FFN output", addition=True),
    Stage("moe_router_logits", ("n", "X"), _K.MATMUL, "router scores before the softmax", addition=True),
    Stage("moe_router", ("n", "k"), _K.SOFTMAX, "weights of the chosen experts, largest first, as they are applied"),
    Stage("moe_router_indices", ("n", "k"), _K.INDEX, "ids of the chosen experts, in the same order, as f32"),
    Stage("moe_expert_gate", ("n", "k", "F"), _K.MATMUL, "gate projection inside the chosen experts"),
    Stage("moe_expert_up", ("n", "k", "F"), _K.MATMUL, "up projection inside the chosen experts"),
    Stage("moe_expert_swigl", ("n", "k", "F"), _K.ELEMENTWISE, "act(gate) · up inside the chosen experts"),
    Stage("moe_expert_out", ("n", "k", "E"), _K.MATMUL, "each chosen expert's output before weighting"),
    Stage("moe_ffn_out", ("n", "E"), _K.MATMUL, "the weighted sum of the experts, plus the shared expert if there is one"),
    Stage("post_ffn_residual", ("n", "E"), _K.ELEMENTWISE, "hidden state after the FFN residual add"),
    Stage("final_norm", ("n", "E"), _K.NORM, "after the output RMSNorm", per_layer=False),
    Stage("lm_head", ("V",), _K.MATMUL, "logits of the last position (of all positions, n·V, on request)", per_layer=False),
]

STAGE_BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}

#: Other names that are accepted when a plan is parsed.
STAGE_ALIASES: dict[str, str] = {"layer_output": "post_ffn_residual"}

_ORDER: dict[str, int] = {stage.name: index for index, stage in enumerate(STAGES)}


def add_stage(stage: Stage, before: str) -> None:
    """Add a stage that a family brings to the table, in front of the stage ``before``. The same stage may be added again.

    Raises AprgraphError if another stage has the name, or if the name or ``before`` makes no sense.
    """
    there = STAGE_BY_NAME.get(stage.name)
    if there == stage:
        return
    if there is not None or stage.name in STAGE_ALIASES:
        raise AprgraphError(f"the stage {stage.name!r} is there already and is another; expected a name of its own")
    if _NAME.fullmatch(stage.name) is None:
        raise AprgraphError(f"the stage {shown(stage.name)}: expected a name of small letters and underscores")
    if before not in STAGE_BY_NAME:
        raise AprgraphError(f"the stage {stage.name!r} is to come before {shown(before)}, which is no stage")
    STAGES.insert(_ORDER[before], stage)
    STAGE_BY_NAME.clear()
    STAGE_BY_NAME.update((each.name, each) for each in STAGES)
    _ORDER.update((each.name, index) for index, each in enumerate(STAGES))


def execution_key(layer: int | None, stage: str) -> tuple[int, int]:
    """Sort key that puts (layer, stage) pairs in execution order; whole-model stages come after every layer."""
    return (layer if layer is not None else 1 << 32, _ORDER.get(stage, len(_ORDER)))

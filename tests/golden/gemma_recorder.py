"""Records the stages of a layer of Gemma 4 in Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Takes layer, stage and values, in the shape of the stage table.
Put = Callable[[int | None, str, torch.Tensor], None]

#: The modules of a layer whose output is a stage.
_AFTER = {
    "attn_norm": "input_layernorm", "attn_out": "self_attn.o_proj", "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_silu": "mlp.act_fn",
    "ffn_out": "mlp.down_proj", "ffn_out_norm": "post_feedforward_layernorm_1", "moe_norm": "pre_feedforward_layernorm_2",
    "moe_router_logits": "router.proj", "moe_ffn_out": "experts", "moe_post_norm": "post_feedforward_layernorm_2",
    "ffn_post_norm": "post_feedforward_layernorm", "per_layer_gate": "per_layer_input_gate", "per_layer_out": "per_layer_projection",
    "per_layer_norm": "post_per_layer_input_norm", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    "v_norm": "self_attn.v_norm",
}  # fmt: skip
#: Those whose input is one.
_BEFORE = {
    "attention": "self_attn.o_proj", "post_attn_residual": "pre_feedforward_layernorm", "ffn_swigl": "mlp.down_proj",
    "moe_router_norm": "router.proj", "post_ffn_residual": "per_layer_input_gate", "per_layer_gated": "per_layer_projection",
}  # fmt: skip


def hook_gemma4(put: Put, index: int, layer: Any) -> None:
    """Record what the modules of one layer take and give; what its attention and its experts do, the recorder sees itself."""
    modules = dict(layer.named_modules())
    for stage, name in _AFTER.items():
        if name in modules and not (stage == "ffn_out_norm" and not layer.enable_moe_block):
            modules[name].register_forward_hook(lambda _module, _inputs, output, stage=stage: put(index, stage, _rows(output)))
    for stage, name in _BEFORE.items():
        if name in modules:
            modules[name].register_forward_pre_hook(lambda _module, inputs, stage=stage: put(index, stage, _rows(inputs[0])))
    if "experts" in modules:  # `ffn_sum` is what the last norm is given
        modules["post_feedforward_layernorm"].register_forward_pre_hook(lambda _module, inputs: put(index, "ffn_sum", _rows(inputs[0])))
    if layer.hidden_size_per_layer_input:
        layer.register_forward_pre_hook(lambda _module, inputs: put(index, "per_layer_input", inputs[1][0]))
    else:  # the sum that is multiplied by the layer's scale
        layer.register_forward_hook(lambda _module, _inputs, output: put(index, "post_ffn_residual", output[0] / layer.layer_scalar))
    layer.register_forward_hook(lambda _module, _inputs, output: put(index, "layer_out", _rows(output)))
    layer.self_attn.register_forward_pre_hook(lambda module, _args, kwargs: _projections(put, index, module, kwargs), with_kwargs=True)


def _projections(put: Put, index: int, attention: Any, kwargs: Any) -> None:
    x = kwargs["hidden_states"][0]
    parts = [getattr(attention, f"{name}_proj", None) for name in "qkv"]
    put(index, "qkv_matmul", torch.cat([x @ part.weight.T for part in parts if part is not None], dim=1))


def _rows(values: Any) -> torch.Tensor:
    """What a module takes or gives of one text, [n, columns]: of heads, side by side."""
    values = values[0] if isinstance(values, tuple) or values.ndim > 2 else values
    return values.flatten(1)

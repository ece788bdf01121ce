"""Records the stages of a layer of Gemma 4 and of Gemma 3n in Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


#: Of Gemma 3n.
_AFTER_3N = {
    "laurel_left": "laurel.linear_left", "laurel_right": "laurel.linear_right", "laurel_norm": "laurel.post_laurel_norm",
    "laurel_out": "laurel", "altup_predict_coefs": "altup.prediction_coefs", "altup_correct_coefs": "altup.correction_coefs",
}  # fmt: skip
_BEFORE_3N = {
    "attention": "self_attn.o_proj", "altup_active": "input_layernorm", "laurel_residual": "pre_feedforward_layernorm",
    "ffn_swigl": "mlp.down_proj", "altup_scaled": "per_layer_input_gate", "per_layer_gated": "per_layer_projection",
}  # fmt: skip


def hook_layer(put: Put, index: int, layer: Any, after: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Record what modules of a layer give, and what some are given, by the stages that these are."""
    modules = dict(layer.named_modules())
    for stage, name in after.items():
        if name in modules:
            modules[name].register_forward_hook(lambda _module, _inputs, output, stage=stage: put(index, stage, _rows(output)))
    for stage, name in before.items():
        if name in modules:
            modules[name].register_forward_pre_hook(lambda _module, inputs, stage=stage: put(index, stage, _rows(inputs[0])))


def hook_gemma4(put: Put, index: int, layer: Any) -> None:
    """Record what the modules of one layer take and give; what its attention and its experts do, the recorder sees itself."""
    modules = dict(layer.named_modules())
    hook_layer(
        put, index, layer, {stage: name for stage, name in _AFTER.items() if stage != "ffn_out_norm" or layer.enable_moe_block}, _BEFORE
    )
    if "experts" in modules:  # `ffn_sum` is what the last norm is given
        modules["post_feedforward_layernorm"].register_forward_pre_hook(lambda _module, inputs: put(index, "ffn_sum", _rows(inputs[0])))
    if layer.hidden_size_per_layer_input:
        layer.register_forward_pre_hook(lambda _module, inputs: put(index, "per_layer_input", inputs[1][0]))
    else:  # the sum that is multiplied by the layer's scale
        layer.register_forward_hook(lambda _module, _inputs, output: put(index, "post_ffn_residual", output[0] / layer.layer_scalar))
    layer.register_forward_hook(lambda _module, _inputs, output: put(index, "layer_out", _rows(output)))
    layer.self_attn.register_forward_pre_hook(lambda module, _args, kwargs: _projections(put, index, module, kwargs), with_kwargs=True)


def hook_gemma3n(put: Put, decoder: Any) -> None:
    """Record what Gemma 3n has beside what Gemma 4 has: streams, a second residual connection, sparse gates."""
    for index, layer in enumerate(decoder.layers):
        hook_layer(put, index, layer, _AFTER | _AFTER_3N, _BEFORE_3N)
        layer.register_forward_pre_hook(lambda _module, inputs, index=index: put(index, "per_layer_input", inputs[2][0]))
        layer.register_forward_hook(lambda _module, _inputs, output, index=index: put(index, "altup_out", _streams(output)))
        _wrap(put, index, layer.altup, "predict", "altup_predicted")
        _wrap(put, index, layer.altup, "correct", "altup_corrected", "post_ffn_residual")
        _hook_sum(put, index, layer)
        for name in ("router_norm", "modality_router"):
            _hook_twice(put, index, getattr(layer.altup, name), name)
        if layer.mlp.activation_sparsity > 0:
            layer.mlp.act_fn.register_forward_pre_hook(lambda _module, inputs, index=index: put(index, "ffn_gate_sparse", _rows(inputs[0])))
        # act_fn of the layer is another module than that of its network.
        layer.self_attn.register_forward_pre_hook(
            lambda module, _args, kwargs, index=index: _projections(put, index, module, kwargs), with_kwargs=True
        )
    decoder.layers[0].register_forward_pre_hook(lambda _module, inputs: put(0, "altup_embedding", _streams(inputs[0])))
    decoder.layers[0].register_forward_pre_hook(lambda _module, inputs: put(0, "embedding", inputs[0][0, 0]))
    decoder.norm.register_forward_pre_hook(lambda _module, inputs: put(None, "altup_merged", _rows(inputs[0])))


def _wrap(put: Put, index: int, altup: Any, name: str, stage: str, given: str = "") -> None:
    """Record what a method of a module gives, and its last argument where that is the stage ``given``."""
    method = getattr(altup, name)

    def recorded(*args: Any) -> torch.Tensor:
        if given:
            put(index, given, _rows(args[-1]))
        streams: torch.Tensor = method(*args)
        put(index, stage, _streams(streams))  # a copy: the layer changes the streams in place
        return streams

    setattr(altup, name, recorded)


def _hook_sum(put: Put, index: int, layer: Any) -> None:
    """Record the sum of the active stream and what attention gives, which is no module's: it is computed again."""
    active: list[torch.Tensor] = []
    layer.input_layernorm.register_forward_pre_hook(lambda _module, inputs: active.append(_rows(inputs[0])))
    layer.post_attention_layernorm.register_forward_hook(
        lambda _module, _inputs, output: put(index, "post_attn_residual", active.pop() + _rows(output))
    )


def _hook_twice(put: Put, index: int, module: Any, name: str) -> None:
    """Record a module that a layer calls for its prediction, and then for its correction."""
    turns: list[str] = []

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        which = "correct" if turns else "predict"
        turns.append(which)
        made, stage = (output.tanh(), "router") if name == "modality_router" else (output, "norm")
        put(index, f"altup_{which}_{stage}", _rows(made))

    module.register_forward_hook(hook)


def _streams(values: torch.Tensor) -> torch.Tensor:
    """Streams [A, 1, n, E] side by side, [n, A·E]."""
    return values[:, 0].transpose(0, 1).flatten(1)


def _projections(put: Put, index: int, attention: Any, kwargs: Any) -> None:
    x = kwargs["hidden_states"][0]
    parts = [getattr(attention, f"{name}_proj", None) for name in "qkv"]
    put(index, "qkv_matmul", torch.cat([x @ part.weight.T for part in parts if part is not None], dim=1))


def _rows(values: Any) -> torch.Tensor:
    """What a module takes or gives of one text, [n, columns]: of heads, side by side."""
    values = values[0] if isinstance(values, tuple) or values.ndim > 2 else values
    return values.flatten(1)

"""Hooks into encoders: BERT and its relatives, with a norm behind each sum, Nomic's, and ModernBERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Records a value: layer, stage, rows.
Put = Callable[[int | None, str, torch.Tensor], None]


def _hooks(put: Put) -> tuple[Callable[[Any, int | None, str], None], Callable[[Any, int | None, str], None]]:
    """What records the input of a module, and its output."""

    def before(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_pre_hook(lambda _module, inputs: put(layer, stage, inputs[0][0]))

    def after(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: put(layer, stage, output[0]))

    return before, after


def hook_bert(model: Any, put: Put, begin: Callable[[int], None]) -> None:
    """Record every stage but those of attention itself; ``begin`` is told which layer begins."""

    before, after = _hooks(put)
    before(model.embeddings.LayerNorm, 0, "embedding")
    after(model.embeddings.LayerNorm, 0, "embedding_norm")
    for index, layer in enumerate(model.encoder.layer):
        layer.register_forward_pre_hook(lambda _module, _inputs, index=index: begin(index))
        heads = layer.attention.self
        parts = [getattr(heads, name) for name in ("query", "key", "value")]

        def projections(_module: Any, inputs: Any, parts: Any = parts, index: int = index) -> None:
            x = inputs[0][0]
            products = [x @ part.weight.T for part in parts]
            put(index, "qkv_matmul", torch.cat(products, dim=1))
            put(index, "qkv_bias", torch.cat([product + part.bias for product, part in zip(products, parts, strict=True)], dim=1))

        heads.register_forward_pre_hook(projections)
        before(layer.attention.output.dense, index, "attention")
        after(layer.attention.output.dense, index, "attn_out")
        before(layer.attention.output.LayerNorm, index, "post_attn_residual")
        after(layer.attention.output.LayerNorm, index, "ffn_norm")
        after(layer.intermediate.dense, index, "ffn_up")
        before(layer.output.dense, index, "ffn_swigl")
        after(layer.output.dense, index, "ffn_out")
        before(layer.output.LayerNorm, index, "post_ffn_residual")
        after(layer.output.LayerNorm, index, "layer_out_norm")


def hook_nomic_bert(model: Any, put: Put, begin: Callable[[int], None]) -> None:
    """As ``hook_bert``."""
    before, after = _hooks(put)
    before(model.embeddings.LayerNorm, 0, "embedding")
    after(model.embeddings.LayerNorm, 0, "embedding_norm")
    for index, layer in enumerate(model.layers):
        layer.register_forward_pre_hook(lambda _module, _inputs, index=index: begin(index))
        heads, mlp = layer.self_attn, layer.mlp
        weights = [getattr(heads, f"{name}_proj").weight for name in "qkv"]

        def projections(_module: Any, inputs: Any, weights: Any = weights, index: int = index) -> None:
            put(index, "qkv_matmul", torch.cat([inputs[0][0] @ weight.T for weight in weights], dim=1))

        heads.q_proj.register_forward_pre_hook(projections)
        before(heads.o_proj, index, "attention")
        after(heads.o_proj, index, "attn_out")
        before(layer.post_attention_layernorm, index, "post_attn_residual")
        after(layer.post_attention_layernorm, index, "ffn_norm")
        after(mlp.gate_proj, index, "ffn_gate")
        after(mlp.up_proj, index, "ffn_up")
        after(mlp.act_fn, index, "ffn_silu")
        before(mlp.down_proj, index, "ffn_swigl")
        after(mlp.down_proj, index, "ffn_out")
        before(layer.post_mlp_layernorm, index, "post_ffn_residual")
        after(layer.post_mlp_layernorm, index, "layer_out_norm")


def hook_modern_bert(model: Any, put: Put, begin: Callable[[int], None]) -> None:
    """As ``hook_bert``."""
    before, after = _hooks(put)
    before(model.embeddings.norm, 0, "embedding")
    after(model.embeddings.norm, 0, "embedding_norm")
    for index, layer in enumerate(model.layers):
        layer.register_forward_pre_hook(lambda _module, _inputs, index=index: begin(index))
        if index:
            after(layer.attn_norm, index, "attn_norm")
        after(layer.attn.Wqkv, index, "qkv_matmul")
        before(layer.attn.Wo, index, "attention")
        after(layer.attn.Wo, index, "attn_out")
        before(layer.mlp_norm, index, "post_attn_residual")
        after(layer.mlp_norm, index, "ffn_norm")

        def gate_and_up(_module: Any, _inputs: Any, output: Any, index: int = index) -> None:
            for stage, half in zip(("ffn_gate", "ffn_up"), output[0].chunk(2, dim=-1), strict=True):
                put(index, stage, half)

        layer.mlp.Wi.register_forward_hook(gate_and_up)
        after(layer.mlp.act, index, "ffn_silu")
        before(layer.mlp.Wo, index, "ffn_swigl")
        after(layer.mlp.Wo, index, "ffn_out")
        after(layer, index, "post_ffn_residual")
    after(model.final_norm, None, "final_norm")


#: By architecture.
ENCODERS = {"bert": hook_bert, "nomic-bert": hook_nomic_bert, "modern-bert": hook_modern_bert}

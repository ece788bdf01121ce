"""Hooks into BERT and its relatives: a norm behind each sum, projections by other names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Records a value: layer, stage, rows.
Put = Callable[[int | None, str, torch.Tensor], None]


def hook_bert(model: Any, put: Put, begin: Callable[[int], None]) -> None:
    """Record every stage but those of attention itself; ``begin`` is told which layer begins."""

    def before(module: Any, layer: int, stage: str) -> None:
        module.register_forward_pre_hook(lambda _module, inputs: put(layer, stage, inputs[0][0]))

    def after(module: Any, layer: int, stage: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: put(layer, stage, output[0]))

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

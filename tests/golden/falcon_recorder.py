"""Hooks into Falcon, whose attention is one function: its scores are computed again, and their softmax has to be the layer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

#: Records a value: layer, stage, rows.
Put = Callable[[int | None, str, torch.Tensor], None]
Stages = Mapping[tuple[int | None, str], npt.NDArray[np.float64]]


def groups_of_falcon(config: Any) -> int:
    """How many heads of k and of v there are."""
    return int(config.num_kv_heads) if config.new_decoder_architecture else 1


def hook_falcon(model: Any, put: Put, stages: Stages, begin: Callable[[int], None]) -> None:
    """Record every stage but RoPE's; ``begin`` is told which layer begins, ``stages`` are those that were recorded."""
    decoder = model.transformer

    def before(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_pre_hook(lambda _module, inputs: put(layer, stage, inputs[0][0]))

    def after(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: put(layer, stage, output[0]))

    after(decoder.word_embeddings, 0, "embedding")
    for index, layer in enumerate(decoder.h):
        layer.register_forward_pre_hook(lambda _module, _inputs, index=index: begin(index))
        attention, mlp = layer.self_attention, layer.mlp
        if hasattr(layer, "ln_attn"):
            after(layer.ln_attn, index, "attn_norm")
            after(layer.ln_mlp, index, "ffn_norm")
        else:
            after(layer.input_layernorm, index, "attn_norm")
        groups = groups_of_falcon(model.config)

        def projections(_module: Any, _inputs: Any, output: Any, index: int = index, groups: int = groups) -> None:
            rows = output[0].unflatten(-1, (groups, -1, model.config.head_dim))
            put(index, "qkv_matmul", torch.cat([part.flatten(1) for part in (rows[:, :, :-2], rows[:, :, -2], rows[:, :, -1])], dim=1))

        attention.query_key_value.register_forward_hook(projections)

        def scores(_module: Any, _inputs: Any, output: Any, index: int = index, groups: int = groups) -> None:
            q, k = (torch.from_numpy(stages[index, f"{part}_post_rope"]) for part in "qk")
            heads, size = model.config.num_attention_heads, model.config.head_dim
            q, k = q.unflatten(1, (groups, heads // groups, size)), k.unflatten(1, (groups, size))
            found = torch.einsum("ngsd,tgd->gsnt", q, k).flatten(0, 1) / size**0.5
            later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
            softmax = found.masked_fill(later, -torch.inf).softmax(-1)
            assert torch.allclose(softmax, output[1][0], rtol=1e-12, atol=1e-12)
            put(index, "attn_scores", found.masked_fill(later, 0.0))
            put(index, "attn_softmax", output[1][0])

        attention.register_forward_hook(scores)
        before(attention.dense, index, "attention")
        after(attention.dense, index, "attn_out")
        after(mlp.dense_h_to_4h, index, "ffn_up")
        before(mlp.dense_4h_to_h, index, "ffn_swigl")
        after(mlp.dense_4h_to_h, index, "ffn_out")
        layer.register_forward_hook(lambda _module, _inputs, output, index=index: put(index, "post_ffn_residual", output[0][0]))
    after(decoder.ln_f, None, "final_norm")

"""Records what happens inside multi-head latent attention of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

#: Stages by (layer, name), in float64.
Stages = Mapping[tuple[int | None, str], npt.NDArray[np.float64]]
#: Takes a layer, a stage and its values.
Put = Callable[[int | None, str, torch.Tensor], None]
#: transformers' functions for RoPE of neighbours, and whether they give the first elements of all pairs, then the second ones.
ROPE_FUNCTIONS = {"apply_rotary_pos_emb_interleave": True, "apply_rotary_emb": False}


def hook_latent_attention(attention: Any, layer: int, stages: Stages, put: Put, *, absorbed: bool) -> None:
    """Record the projections of one layer and their norms.

    ``absorbed``: the model's file has attention over the latent. transformers computes k and v of all heads in any case, so what is in
    their place is computed here, from the same weights.
    """
    modules = {"q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "kv_a": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm"}
    modules["q_matmul"] = "q_proj" if attention.q_proj is not None else "q_b_proj"
    if not absorbed:
        modules["kv_b"] = "kv_b_proj"
    for stage, name in modules.items():
        module = getattr(attention, name)
        if module is not None:
            module.register_forward_hook(
                lambda _module, _inputs, output, stage=stage: put(layer, stage, output.reshape(-1, output.shape[-1]))
            )
    if absorbed:
        attention.o_proj.register_forward_pre_hook(lambda _module, _inputs: _absorb(attention, layer, stages, put))


def _absorb(attention: Any, layer: int, stages: Stages, put: Put) -> None:
    plain = attention.qk_nope_head_dim
    matrices = attention.kv_b_proj.weight.reshape(attention.num_heads, -1, attention.kv_lora_rank)[:, :plain]
    q, softmax, latent = (torch.from_numpy(stages[layer, name]) for name in ("q_matmul", "attn_softmax", "kv_a_norm"))
    heads = q.reshape(len(q), attention.num_heads, -1)[..., :plain]
    put(layer, "q_absorbed", torch.einsum("nhd,hdl->nhl", heads, matrices).reshape(len(q), -1))
    put(layer, "attn_latent", torch.einsum("hnt,tl->nhl", softmax, latent).reshape(len(q), -1))


def turned(heads: torch.Tensor, halves: bool) -> torch.Tensor:
    """Heads [1, H, n, R] as RoPE leaves them, as rows in which pairs are neighbours. ``halves``: they are halves apart."""
    rows = heads[0].transpose(0, 1)
    if halves:
        rows = rows.reshape(*rows.shape[:2], 2, -1).transpose(2, 3)
    return rows.reshape(len(rows), -1)

"""Hooks into DBRX, whose layers have their norms and attention in a module of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Records a value: layer, stage, rows.
Put = Callable[[int | None, str, torch.Tensor], None]


def hook_dbrx(model: Any, put: Put, begin: Callable[[int], None]) -> None:
    """Record every stage but RoPE's and those of attention itself; ``begin`` is told which layer begins."""
    decoder = model.transformer

    def before(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_pre_hook(lambda _module, inputs: put(layer, stage, inputs[0].reshape(-1, inputs[0].shape[-1])))

    def after(module: Any, layer: int | None, stage: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: put(layer, stage, output.reshape(-1, output.shape[-1])))

    after(decoder.wte, 0, "embedding")
    for index, layer in enumerate(decoder.blocks):
        layer.register_forward_pre_hook(lambda _module, _inputs, index=index: begin(index))
        inner = layer.norm_attn_norm
        after(inner.norm_1, index, "attn_norm")
        after(inner.attn.Wqkv, index, "qkv_matmul")
        before(inner.attn.out_proj, index, "attention")
        after(inner.attn.out_proj, index, "attn_out")
        before(inner.norm_2, index, "post_attn_residual")
        after(inner.norm_2, index, "ffn_norm")
        after(layer.ffn.router, index, "moe_router_logits")
        layer.ffn.experts.register_forward_hook(
            lambda module, inputs, output, index=index: _record_experts(put, index, module, inputs, output)
        )
        after(layer.ffn, index, "moe_ffn_out")
        after(layer, index, "post_ffn_residual")
    after(decoder.norm_f, None, "final_norm")


def _record_experts(put: Put, index: int, experts: Any, inputs: Any, output: torch.Tensor) -> None:
    """What goes on inside the experts happens in one call: it is computed again, and its sum has to be the call's."""
    x, chosen, weights = inputs
    x = x.reshape(-1, x.shape[-1])
    gates, ups, downs = (
        matrix.view(experts.num_experts, experts.ffn_hidden_size, experts.hidden_size)[chosen]
        for matrix in (experts.mlp.w1, experts.mlp.v1, experts.mlp.w2)
    )
    gate, up = torch.einsum("ne,nkfe->nkf", x, gates), torch.einsum("ne,nkfe->nkf", x, ups)
    product = experts.mlp.activation_fn(gate) * up
    out = torch.einsum("nkf,nkfe->nke", product, downs)
    assert torch.allclose((out * weights[..., None]).sum(1), output.reshape(len(x), -1), rtol=1e-10, atol=1e-10)
    put(index, "moe_router", weights)
    put(index, "moe_router_indices", chosen.double())
    for name, values in {"gate": gate, "up": up, "swigl": product, "out": out}.items():
        put(index, f"moe_expert_{name}", values)

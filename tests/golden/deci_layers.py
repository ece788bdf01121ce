"""Layers of Deci, which transformers has no class of: Llama's, without the parts that a layer has not, and with others' sizes.

What computes attention and networks is Llama's own code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm


class _Matrix(torch.nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.linear_attn = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return self.linear_attn(hidden_states), None


class DeciLayer(torch.nn.Module):
    """A layer with ``heads`` and ``kv_heads`` (0 of these: a matrix; 0 of both: no attention) and a network of ``size`` (0: none)."""

    def __init__(self, config: Any, index: int, heads: int, kv_heads: int, size: int) -> None:
        super().__init__()
        own = copy.copy(config)
        own.num_key_value_heads, own.intermediate_size = kv_heads, size
        if heads:
            self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.self_attn = LlamaAttention(own, index) if kv_heads else _Matrix(config)
        if size:
            self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.mlp = LlamaMLP(own)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if hasattr(self, "self_attn"):
            hidden_states = hidden_states + self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        if hasattr(self, "mlp"):
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


def hook_matrix(put: Callable[[int, str, torch.Tensor], None], index: int, layer: DeciLayer) -> None:
    """Record what a matrix in place of attention gives."""
    layer.self_attn.register_forward_hook(lambda _module, _args, output: put(index, "attn_out", output[0][0]))

"""Runs a model of Hugging Face transformers and records every stage, in the shapes and row orders of the stage table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.golden.transformers_models import LoadedModel

F64 = npt.NDArray[np.float64]


class Recorder:
    """Hooks into one model; ``stages`` holds float64 arrays by (layer, stage)."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.stages: dict[tuple[int | None, str], F64] = {}
        self.layer = -1
        model = loaded.model
        self._after(model.model.embed_tokens, 0, "embedding")
        for index, layer in enumerate(model.model.layers):
            layer.register_forward_pre_hook(lambda _module, _inputs, index=index: setattr(self, "layer", index))
            self._hook_attention(index, layer)
            self._hook_feed_forward(index, layer.mlp)
            self._after(layer, index, "post_ffn_residual")
        self._after(model.model.norm, None, "final_norm")
        model.lm_head.register_forward_hook(lambda _module, _inputs, output: self._put(None, "lm_head", output[0, -1]))

    def run(self, tokens: Sequence[int], *, causal: bool = True) -> dict[tuple[int | None, str], F64]:
        """Run a prefill of ``tokens`` and return its stages; without a mask if it is not to be ``causal``."""
        functions = self.loaded.functions
        rope, attention = functions.apply_rotary_pos_emb, functions.eager_attention_forward

        def recorded_rope(*args: Any, **kwargs: Any) -> Any:
            q, k = rope(*args, **kwargs)
            self._put(self.layer, "q_post_rope", self._in_file_order(q))
            self._put(self.layer, "k_post_rope", self._in_file_order(k))
            return q, k

        def recorded_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **kwargs: Any) -> Any:
            mask = mask if causal else torch.zeros_like(mask)
            output, weights = attention(module, query, key, value, mask, scaling=scaling, **kwargs)
            keys = functions.repeat_kv(key, module.num_key_value_groups)
            scores = query @ keys.transpose(2, 3) * scaling
            self._put(self.layer, "attn_scores", torch.where(mask == 0, scores, 0.0)[0])
            self._put(self.layer, "attn_softmax", weights[0])
            return output, weights

        functions.apply_rotary_pos_emb, functions.eager_attention_forward = recorded_rope, recorded_attention
        try:
            with torch.no_grad():
                self.loaded.model(input_ids=torch.tensor([list(tokens)]))
        finally:
            functions.apply_rotary_pos_emb, functions.eager_attention_forward = rope, attention
        return self.stages

    def _put(self, layer: int | None, stage: str, values: torch.Tensor) -> None:
        assert values.dtype == torch.float64, f"{stage} is {values.dtype}"
        assert (layer, stage) not in self.stages, f"{stage} is recorded twice"
        self.stages[layer, stage] = np.array(values.numpy())

    def _after(self, module: Any, layer: int | None, stage: str) -> None:
        """Record what ``module`` returns, as rows."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self._put(layer, stage, _rows(output))

        module.register_forward_hook(hook)

    def _before(self, module: Any, layer: int | None, stage: str) -> None:
        """Record what ``module`` is given, as rows."""

        def hook(_module: Any, inputs: Any) -> None:
            self._put(layer, stage, _rows(inputs[0]))

        module.register_forward_pre_hook(hook)

    def _in_file_order(self, values: torch.Tensor) -> torch.Tensor:
        """Heads of q or k [1, heads, n, D] to [n, heads · D] with rows in the file's order."""
        heads = values[0].transpose(0, 1)
        n, count, size = heads.shape
        if self.loaded.pairs_neighbours:
            heads = heads.reshape(n, count, 2, size // 2).transpose(2, 3)
        return heads.reshape(n, count * size)

    def _hook_attention(self, index: int, layer: Any) -> None:
        attention, is_gemma = layer.self_attn, self.loaded.architecture == "gemma3"

        def projections(_module: Any, _args: Any, kwargs: Any) -> None:
            x = kwargs["hidden_states"][0]
            if hasattr(attention, "qkv_proj"):
                self._put(index, "qkv_matmul", x @ attention.qkv_proj.weight.T)
                return
            parts = {name: getattr(attention, f"{name}_proj") for name in "qkv"}

            def side_by_side(values: dict[str, torch.Tensor]) -> torch.Tensor:
                heads = {name: values[name].reshape(1, len(x), -1, attention.head_dim).transpose(1, 2) for name in "qk"}
                return torch.cat([*(self._in_file_order(heads[name]) for name in "qk"), values["v"]], dim=1)

            products = {name: x @ module.weight.T for name, module in parts.items()}
            self._put(index, "qkv_matmul", side_by_side(products))
            if attention.q_proj.bias is not None:
                self._put(index, "qkv_bias", side_by_side({name: products[name] + module.bias for name, module in parts.items()}))

        def normed_heads(stage: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                # Gemma normalises [1, heads, n, D], Qwen [1, n, heads, D].
                self._put(index, stage, self._in_file_order(output if is_gemma else output.transpose(1, 2)))

            return hook

        self._after(layer.input_layernorm, index, "attn_norm")
        attention.register_forward_pre_hook(projections, with_kwargs=True)
        if hasattr(attention, "q_norm"):
            attention.q_norm.register_forward_hook(normed_heads("q_norm"))
            attention.k_norm.register_forward_hook(normed_heads("k_norm"))
        self._before(attention.o_proj, index, "attention")
        self._after(attention.o_proj, index, "attn_out")
        if is_gemma:
            self._after(layer.post_attention_layernorm, index, "attn_post_norm")
            self._after(layer.post_feedforward_layernorm, index, "ffn_post_norm")
        ffn_norm = layer.pre_feedforward_layernorm if is_gemma else layer.post_attention_layernorm
        self._before(ffn_norm, index, "post_attn_residual")
        self._after(ffn_norm, index, "ffn_norm")

    def _hook_feed_forward(self, index: int, mlp: Any) -> None:
        if not hasattr(mlp, "experts"):
            self._hook_dense(index, mlp)
            return
        mlp.gate.register_forward_hook(lambda _module, _inputs, output: self._put(index, "moe_router_logits", output[0]))
        mlp.experts.register_forward_hook(lambda module, inputs, output: self._record_experts(index, module, inputs, output))
        if hasattr(mlp, "shared_expert"):
            self._hook_dense(index, mlp.shared_expert)
        self._after(mlp, index, "moe_ffn_out")

    def _hook_dense(self, index: int, mlp: Any) -> None:
        if hasattr(mlp, "gate_up_proj"):

            def gate_and_up(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                gate, up = output[0].chunk(2, dim=-1)
                self._put(index, "ffn_gate", gate)
                self._put(index, "ffn_up", up)

            mlp.gate_up_proj.register_forward_hook(gate_and_up)
            self._after(mlp.activation_fn, index, "ffn_silu")
        else:
            self._after(mlp.gate_proj, index, "ffn_gate")
            self._after(mlp.up_proj, index, "ffn_up")
            self._after(mlp.act_fn, index, "ffn_silu")
        self._before(mlp.down_proj, index, "ffn_swigl")
        self._after(mlp.down_proj, index, "ffn_out")

    def _record_experts(self, index: int, experts: Any, inputs: Any, output: torch.Tensor) -> None:
        """What goes on inside the experts happens in one call: it is computed again, and its sum has to be the call's."""
        x, chosen, weights = inputs
        weights = weights.double()  # the softmax over the experts is in float32; that leaves 1e-15
        gate, up = torch.einsum("ne,nkfe->nkf", x, experts.gate_up_proj[chosen]).chunk(2, dim=-1)
        product = torch.nn.functional.silu(gate) * up
        out = torch.einsum("nkf,nkef->nke", product, experts.down_proj[chosen])
        assert torch.allclose((out * weights[..., None]).sum(1), output, rtol=1e-10, atol=1e-10)
        stages = {"gate": gate, "up": up, "swigl": product, "out": out}
        self._put(index, "moe_router", weights)
        self._put(index, "moe_router_indices", chosen.double())
        for name, values in stages.items():
            self._put(index, f"moe_expert_{name}", values)


def _rows(values: Any) -> torch.Tensor:
    """What a module takes or returns, [n, columns]."""
    values = values[0] if isinstance(values, tuple) else values
    return values.reshape(-1, values.shape[-1])

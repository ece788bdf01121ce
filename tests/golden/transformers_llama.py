"""Runs Hugging Face transformers' LlamaForCausalLM in float64 on a GGUF file's weights, and records every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

F64 = npt.NDArray[np.float64]

#: Hugging Face's module for each matrix or norm of a layer.
_MODULES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def load(path: Path, llama3_rope: tuple[float, float, float, int] | None = None) -> LlamaForCausalLM:
    """The model of a GGUF file with its weights decoded by the gguf package.

    transformers computes Llama 3.1's frequencies from ``llama3_rope`` by itself; the file's factors are not used.
    """
    reader = gguf.GGUFReader(path)

    def key(name: str, default: Any = None) -> Any:
        value = reader.fields.get(name)
        return default if value is None else value.contents()

    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    assert ("rope_freqs.weight" in weights) == (llama3_rope is not None)
    hidden, heads = key("llama.embedding_length"), key("llama.attention.head_count")
    kv_heads = key("llama.attention.head_count_kv", heads)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": key("llama.rope.freq_base", 10000.0)}
    if llama3_rope is not None:
        factor, low, high, context = llama3_rope
        rope |= {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": context,
        }  # fmt: skip
    biased = "blk.0.attn_q.bias" in weights
    config = LlamaConfig(
        vocab_size=len(weights["token_embd.weight"]), hidden_size=hidden, intermediate_size=key("llama.feed_forward_length"),
        num_hidden_layers=key("llama.block_count"), num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=key("llama.attention.key_length", hidden // heads), rms_norm_eps=key("llama.attention.layer_norm_rms_epsilon"),
        max_position_embeddings=key("llama.context_length"), rope_parameters=rope, attention_bias=biased, mlp_bias=biased,
        tie_word_embeddings=False, use_cache=False, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        attn_implementation="eager",
    )  # fmt: skip
    transformers.logging.set_verbosity_error()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    state = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
        "lm_head.weight": weights.get("output.weight", weights["token_embd.weight"]),
    }
    for name, values in weights.items():
        block, layer, *rest = name.split(".")
        if block == "blk":
            part, kind = rest
            if part in ("attn_q", "attn_k"):
                values = _to_halves(values, heads if part == "attn_q" else kv_heads)
            state[f"model.layers.{layer}.{_MODULES[part]}.{kind}"] = values
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in state.items()}, strict=True, assign=True)
    # Buffers are not in the state: the rotary module is made again, on the CPU.
    model.model.rotary_emb = modeling_llama.LlamaRotaryEmbedding(config)
    return model.double().eval()


def _to_halves(rows: F64, heads: int) -> F64:
    """Rows of q or k from the file's order, in which RoPE pairs neighbours, to that of transformers, which pairs halves."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _to_neighbours(values: torch.Tensor) -> F64:
    """[1, heads, n, D] in the order of transformers to [n, heads · D] in the file's order."""
    array: F64 = values[0].transpose(0, 1).numpy()
    n, heads, size = array.shape
    return array.reshape(n, heads, 2, size // 2).swapaxes(2, 3).reshape(n, heads * size)


class Recorder:
    """Hooks into one model; ``stages`` holds float64 arrays by (layer, stage), in the shapes and orders of the stage table."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        self.stages: dict[tuple[int | None, str], F64] = {}
        self.layer = -1
        self.handles = [model.model.embed_tokens.register_forward_hook(self._output(0, "embedding"))]
        for index, layer in enumerate(model.model.layers):
            self._hook_layer(index, layer)
        self.handles += [
            model.model.norm.register_forward_hook(self._output(None, "final_norm")),
            model.lm_head.register_forward_hook(lambda _m, _i, out: self._put(None, "lm_head", out[0, -1].numpy())),
        ]

    def run(self, tokens: Sequence[int]) -> dict[tuple[int | None, str], F64]:
        """Run a prefill of ``tokens`` and return its stages."""
        rope, attention = modeling_llama.apply_rotary_pos_emb, modeling_llama.eager_attention_forward

        def recorded_rope(*args: Any, **kwargs: Any) -> Any:
            q, k = rope(*args, **kwargs)
            self._put(self.layer, "q_post_rope", _to_neighbours(q))
            self._put(self.layer, "k_post_rope", _to_neighbours(k))
            return q, k

        def recorded_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **kwargs: Any) -> Any:
            output, weights = attention(module, query, key, value, mask, scaling, **kwargs)
            keys = modeling_llama.repeat_kv(key, module.num_key_value_groups)
            scores = (query @ keys.transpose(2, 3) * scaling)[0].numpy()
            self._put(self.layer, "attn_scores", np.tril(scores))
            self._put(self.layer, "attn_softmax", weights[0].numpy())
            return output, weights

        modeling_llama.apply_rotary_pos_emb = recorded_rope
        modeling_llama.eager_attention_forward = recorded_attention
        try:
            with torch.no_grad():
                self.model(input_ids=torch.tensor([list(tokens)]))
        finally:
            modeling_llama.apply_rotary_pos_emb = rope
            modeling_llama.eager_attention_forward = attention
        return self.stages

    def _put(self, layer: int | None, stage: str, values: F64) -> None:
        assert values.dtype == np.float64, f"{stage} is {values.dtype}"
        self.stages[layer, stage] = np.array(values)

    def _output(self, layer: int | None, stage: str) -> Any:
        return lambda _module, _inputs, output: self._put(layer, stage, output[0].numpy())

    def _input(self, layer: int | None, stage: str) -> Any:
        return lambda _module, inputs: self._put(layer, stage, inputs[0][0].numpy())

    def _hook_layer(self, index: int, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp

        def begin(_module: Any, _inputs: Any) -> None:
            self.layer = index

        def projections(_module: Any, _args: Any, kwargs: Any) -> None:
            x = kwargs["hidden_states"][0]
            parts = {name: getattr(attention, f"{name}_proj") for name in "qkv"}
            heads = {"q": attention.config.num_attention_heads, "k": attention.config.num_key_value_heads}

            def rows(name: str, values: torch.Tensor) -> F64:
                if name == "v":
                    return values.numpy()
                return _to_neighbours(values.reshape(1, len(values), heads[name], -1).transpose(1, 2))

            products = {name: x @ module.weight.T for name, module in parts.items()}
            self._put(index, "qkv_matmul", np.concatenate([rows(n, v) for n, v in products.items()], axis=1))
            if attention.q_proj.bias is not None:
                biased = {name: products[name] + module.bias for name, module in parts.items()}
                self._put(index, "qkv_bias", np.concatenate([rows(n, v) for n, v in biased.items()], axis=1))

        self.handles += [
            layer.register_forward_pre_hook(begin),
            layer.input_layernorm.register_forward_hook(self._output(index, "attn_norm")),
            attention.register_forward_pre_hook(projections, with_kwargs=True),
            attention.o_proj.register_forward_pre_hook(self._input(index, "attention")),
            attention.o_proj.register_forward_hook(self._output(index, "attn_out")),
            layer.post_attention_layernorm.register_forward_pre_hook(self._input(index, "post_attn_residual")),
            layer.post_attention_layernorm.register_forward_hook(self._output(index, "ffn_norm")),
            mlp.gate_proj.register_forward_hook(self._output(index, "ffn_gate")),
            mlp.up_proj.register_forward_hook(self._output(index, "ffn_up")),
            mlp.act_fn.register_forward_hook(self._output(index, "ffn_silu")),
            mlp.down_proj.register_forward_pre_hook(self._input(index, "ffn_swigl")),
            mlp.down_proj.register_forward_hook(self._output(index, "ffn_out")),
            layer.register_forward_hook(
                lambda _m, _i, out: self._put(index, "post_ffn_residual", (out[0] if isinstance(out, tuple) else out)[0].numpy())
            ),
        ]

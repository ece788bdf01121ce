"""Loads a GGUF file of any family into Hugging Face transformers' model of that family, in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers

from tests.golden.hf_to_gguf import F32, PERMUTED

F64 = npt.NDArray[np.float64]

#: transformers' name of each model, by the family and whether it has experts.
_NAMES = {
    ("llama", False): "Llama", ("llama", True): "Mixtral", ("qwen2", False): "Qwen2", ("qwen2moe", True): "Qwen2Moe",
    ("qwen3", False): "Qwen3", ("qwen3moe", True): "Qwen3Moe", ("gemma3", False): "Gemma3", ("phi3", False): "Phi3",
}  # fmt: skip
#: transformers' module for each matrix or norm of a layer.
_MODULES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate", "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
#: Where the families differ from that.
_MODULES_OF = {
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}  # fmt: skip
#: The base of RoPE that models were trained with, where files may lack it: Qwen3-30B-A3B's config.json says this.
_ROPE_BASES = {"qwen3moe": 1_000_000.0}


@dataclass(frozen=True)
class LoadedModel:
    """``model`` is in float64. ``functions``: the module whose functions it calls for RoPE and attention.

    ``absorbed``: its file has latent attention over the latent itself. With ``pooling`` it is an embedding model, with the
    matrices of ``dense`` layers behind the pooling.
    """

    architecture: str
    model: Any
    functions: Any
    absorbed: bool = False
    pooling: str = ""
    dense: Sequence[F32] = ()

    @property
    def pairs_neighbours(self) -> bool:
        """Whether RoPE pairs neighbours in the file's rows of q and k where it pairs halves in transformers."""
        return self.architecture == "llama" or self.architecture in PERMUTED


class _File:
    """A GGUF file's metadata, and its tensors as the gguf package decodes them."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.architecture: str = self.reader.fields["general.architecture"].contents()
        decode: Callable[..., Any] = gguf.quants.dequantize
        self.weights: dict[str, F64] = {t.name: decode(t.data, t.tensor_type).astype(np.float64) for t in self.reader.tensors}

    def key(self, name: str, default: Any = None) -> Any:
        value = self.reader.fields.get(f"{self.architecture}.{name}")
        return default if value is None else value.contents()


def load(path: Path, llama3_rope: tuple[float, float, float, int] | None = None) -> LoadedModel:
    """The model of a GGUF file with its weights decoded by the gguf package.

    transformers computes scaled RoPE frequencies by itself: Llama 3.1's from ``llama3_rope`` (the file's factors are not
    used), others from what the file's metadata says about them.
    """
    file = _File(path)
    assert ("rope_freqs.weight" in file.weights) == (llama3_rope is not None)
    name = _NAMES[file.architecture, bool(file.key("expert_count", 0))]
    config = _config(file, name, llama3_rope)
    transformers.logging.set_verbosity_error()
    with torch.device("meta"):
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    state = {key: torch.from_numpy(np.ascontiguousarray(values)) for key, values in _state(file).items()}
    model.load_state_dict(state, strict=True, assign=True)
    functions = sys.modules[type(model).__module__]
    # Buffers are not in the state: what holds them is made again, on the CPU.
    model.model.rotary_emb = getattr(functions, f"{name}RotaryEmbedding")(config)
    if name == "Gemma3":
        # Rounded to float32, as both transformers and llama.cpp do.
        model.model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    return LoadedModel(file.architecture, model.double().eval(), functions)


def _config(file: _File, name: str, llama3_rope: tuple[float, float, float, int] | None) -> Any:
    key = file.key
    hidden, heads = key("embedding_length"), key("attention.head_count")
    head_size = key("attention.key_length", hidden // heads)
    has_bias = "blk.0.attn_q.bias" in file.weights
    config = {
        "vocab_size": len(file.weights["token_embd.weight"]), "hidden_size": hidden, "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": key("attention.head_count_kv", heads), "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": key("context_length"), "rope_parameters": _rope(file, head_size, llama3_rope),
        "tie_word_embeddings": False, "use_cache": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
        "attn_implementation": "eager", "experts_implementation": "eager",
    }  # fmt: skip
    if name in ("Llama", "Mixtral", "Qwen3", "Qwen3Moe", "Gemma3"):
        config["head_dim"] = head_size
    if name == "Llama":
        config |= {"attention_bias": has_bias, "mlp_bias": has_bias}
    if name == "Mixtral":
        config |= {"num_local_experts": key("expert_count"), "num_experts_per_tok": key("expert_used_count"), "sliding_window": None}
    if name in ("Qwen2Moe", "Qwen3Moe"):
        config |= {
            "num_experts": key("expert_count"), "num_experts_per_tok": key("expert_used_count"),
            "moe_intermediate_size": key("expert_feed_forward_length"), "norm_topk_prob": name == "Qwen3Moe",
        }  # fmt: skip
    if name == "Qwen2Moe":
        config["shared_expert_intermediate_size"] = key("expert_shared_feed_forward_length")
    if name == "Gemma3":
        config |= {"query_pre_attn_scalar": head_size, "sliding_window": key("attention.sliding_window")}
    if name == "Phi3":
        config["sliding_window"] = key("attention.sliding_window", 0) or None
        # transformers takes LongRoPE's original context from here, not from rope_parameters.
        config["original_max_position_embeddings"] = key("rope.scaling.original_context_length", key("context_length"))
    return getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**config)


def _rope(file: _File, head_size: int, llama3_rope: tuple[float, float, float, int] | None) -> dict[str, Any]:
    key = file.key
    kind = key("rope.scaling.type", "default")
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": key("rope.freq_base", _ROPE_BASES.get(file.architecture, 10000.0))}
    if kind in ("linear", "yarn"):
        rope["factor"] = key("rope.scaling.factor")
    if kind == "yarn":
        rope["original_max_position_embeddings"] = key("rope.scaling.original_context_length")
    if llama3_rope is not None:
        factor, low, high, context = llama3_rope
        rope |= {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": context,
        }  # fmt: skip
    if file.architecture == "phi3":
        rope["partial_rotary_factor"] = key("rope.dimension_count", head_size) / head_size
    if "rope_factors_long.weight" in file.weights:
        # The magnitude of cos and sin is computed from the two context lengths; the file's is not used.
        rope |= {"rope_type": "longrope"}
        rope |= {f"{kind}_factor": file.weights[f"rope_factors_{kind}.weight"].tolist() for kind in ("long", "short")}
    if file.architecture != "gemma3":
        return rope
    return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}


def _state(file: _File) -> dict[str, F64]:
    """The weights under transformers' names."""
    weights = file.weights
    state = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
        "lm_head.weight": weights.get("output.weight", weights["token_embd.weight"]),
    }
    modules = _MODULES | _MODULES_OF.get(file.architecture, {})
    heads = {"attn_q": file.key("attention.head_count"), "attn_k": file.key("attention.head_count_kv")}
    for name, values in weights.items():
        block, layer, *rest = name.split(".")
        if block != "blk":
            continue
        part, kind = rest
        if part.endswith("_exps"):
            continue
        if file.architecture == "llama" and part in heads:
            values = _to_halves(values, heads[part])
        if part == "ffn_gate_inp_shexp":
            values = values[None]
        state[f"model.layers.{layer}.{modules[part]}.{kind}"] = values
    for layer in range(file.key("block_count")):
        blk, experts = f"blk.{layer}", f"model.layers.{layer}.mlp.experts"
        if f"{blk}.ffn_gate_exps.weight" in weights:
            gate_and_up = [weights[f"{blk}.ffn_{part}_exps.weight"] for part in ("gate", "up")]
            state[f"{experts}.gate_up_proj"] = np.concatenate(gate_and_up, axis=1)
            state[f"{experts}.down_proj"] = weights[f"{blk}.ffn_down_exps.weight"]
    if file.architecture == "gemma3":
        # Its norms multiply by 1 + weight, and the file holds the sum.
        state |= {name: values - 1 for name, values in state.items() if name.endswith("norm.weight")}
    return state


def _to_halves(rows: F64, heads: int) -> F64:
    """Rows of q or k from the file's order, in which RoPE pairs neighbours, to that of transformers, which pairs halves."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

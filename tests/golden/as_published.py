"""Checkpoints of families of which transformers has no class: names and fields of the code that came with the published ones.

The models are those of another class that computes the same. Names are those that the gguf package knows of the published tensors, and
fields are as `convert_hf_to_gguf.py` of llama.cpp reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.golden.hf_to_gguf import F32

_BAILING = {
    "model.embed_tokens.": "model.word_embeddings.", ".self_attn.o_proj.": ".attention.dense.",
    ".self_attn.q_norm.": ".attention.query_layernorm.", ".self_attn.k_norm.": ".attention.key_layernorm.",
    ".gate.e_score_correction_bias": ".gate.expert_bias",
}  # fmt: skip
_INTERNLM2 = {
    "model.embed_tokens.": "model.tok_embeddings.", "lm_head.": "output.", ".self_attn.o_proj.": ".attention.wo.",
    ".input_layernorm.": ".attention_norm.", ".post_attention_layernorm.": ".ffn_norm.", ".mlp.gate_proj.": ".feed_forward.w1.",
    ".mlp.up_proj.": ".feed_forward.w3.", ".mlp.down_proj.": ".feed_forward.w2.",
}  # fmt: skip
_RENAMED: Mapping[str, Mapping[str, str]] = {"bailingmoe2": _BAILING, "internlm2": _INTERNLM2, "baichuan": {}}
#: Fields that all have, under the same names.
_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "use_cache",
)  # fmt: skip
_DEEPSEEK = ("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok", "n_shared_experts")


def _bailing(config: Any) -> dict[str, Any]:
    return {
        "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe", "head_dim": config.head_dim,
        "moe_intermediate_size": config.moe_intermediate_size, "num_experts": config.n_routed_experts,
        "num_shared_experts": config.n_shared_experts, "num_experts_per_tok": config.num_experts_per_tok, "n_group": config.n_group,
        "topk_group": config.topk_group, "first_k_dense_replace": config.first_k_dense_replace, "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor, "score_function": "sigmoid", "use_qk_norm": True, "use_qkv_bias": False,
        "use_bias": False, "moe_router_enable_expert_bias": True, "partial_rotary_factor": 0.5, "rope_scaling": None,
        "num_nextn_predict_layers": 0,
    }  # fmt: skip


def _deepseek(config: Any) -> dict[str, Any]:
    return {
        "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", **{name: getattr(config, name) for name in _DEEPSEEK},
        "first_k_dense_replace": config.mlp_layer_types.count("dense"), "moe_layer_freq": 1, "norm_topk_prob": False,
        "scoring_func": "softmax", "seq_aux": True, "aux_loss_alpha": 0.001, "attention_bias": False, "rope_scaling": None,
    }  # fmt: skip


def _minicpm(config: Any) -> dict[str, Any]:
    return {
        "architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4,
        "dim_model_base": int(config.hidden_size / config.logits_scaling), "rope_scaling": None,
    }  # fmt: skip


def _internlm2(config: Any) -> dict[str, Any]:
    return {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False, "rope_scaling": None}


def _baichuan(config: Any) -> dict[str, Any]:
    return {"architectures": ["BaiChuanForCausalLM"], "model_type": "baichuan", "model_max_length": config.max_position_embeddings}


def _deci(config: Any) -> dict[str, Any]:
    blocks = [
        {
            "attention": {
                "n_heads_in_group": heads // kv_heads if kv_heads else None, "no_op": not heads, "num_sink_tokens": None,
                "replace_with_linear": bool(heads and not kv_heads), "sparsify": None, "unshifted_sink": False,
                "use_prefill_window_in_sink_attention": False, "window_length": None,
            },
            "ffn": {
                "ffn_mult": size * 3 / 2 / config.hidden_size if size else None, "no_op": not size, "replace_with_linear": False,
                "sparsify": None,
            },
        }
        for heads, kv_heads, size in config.deci_layers
    ]  # fmt: skip
    rope = {name: value for name, value in config.rope_parameters.items() if name != "rope_theta"}
    return {
        "architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas", "block_configs": blocks, "intermediate_size": None,
        "num_key_value_heads": None, "rope_scaling": rope, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip


_OWN_FIELDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "bailingmoe2": _bailing, "deepseek": _deepseek, "minicpm": _minicpm, "internlm2": _internlm2, "baichuan": _baichuan,
    "deci": _deci,
}  # fmt: skip
#: The families that are saved so.
ARCHITECTURES = tuple(_OWN_FIELDS)


def save_as_published(architecture: str, config: Any, state: Mapping[str, F32], folder: Path) -> None:
    """Write config.json and model.safetensors into ``folder``, which is made."""
    folder.mkdir()
    fields = {name: getattr(config, name) for name in _FIELDS}
    fields |= {"rope_theta": config.rope_parameters["rope_theta"]} if architecture != "baichuan" else {}
    (folder / "config.json").write_text(json.dumps(fields | _OWN_FIELDS[architecture](config), indent=2, sort_keys=True) + "\n")
    if config.tie_word_embeddings:
        state = {name: values for name, values in state.items() if name != "lm_head.weight"}
    tensors = {name: np.ascontiguousarray(values) for name, values in _tensors(architecture, config, state)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(architecture: str, config: Any, state: Mapping[str, F32]) -> Iterator[tuple[str, F32]]:
    for name, values in state.items():
        path, _, part = name.rpartition(".")
        if ".experts." in name:
            for number, expert in enumerate(values):
                halves = np.split(expert, 2) if part == "gate_up_proj" else [expert]
                for own, half in zip(("gate_proj", "up_proj") if part == "gate_up_proj" else (part,), halves, strict=True):
                    yield f"{path}.{number}.{own}.weight", half
        elif architecture in _RENAMED and path.endswith(("q_proj", "k_proj", "v_proj")):
            if path.endswith("q_proj"):
                rows = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                yield _joined(architecture, config, name, rows)
        else:
            own_name = name
            for theirs, own in _RENAMED.get(architecture, {}).items():
                own_name = own_name.replace(theirs, own)
            yield own_name, values


def _joined(architecture: str, config: Any, name: str, rows: list[F32]) -> tuple[str, F32]:
    """q, k and v as one tensor, in InternLM 2 KV group by KV group."""
    if architecture == "bailingmoe2":
        return name.replace("self_attn.q_proj", "attention.query_key_value"), np.concatenate(rows)
    if architecture == "baichuan":
        return name.replace("q_proj", "W_pack"), np.concatenate(rows)
    groups = [part.reshape(config.num_key_value_heads, -1, part.shape[1]) for part in rows]
    return name.replace("self_attn.q_proj", "attention.wqkv"), np.concatenate(groups, axis=1).reshape(-1, rows[0].shape[1])

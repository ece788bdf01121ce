"""Converts a model of Hugging Face transformers to GGUF, with the names, keys and orders of rows that llama.cpp expects.

What to do follows from tables. Names of tensors are the gguf package's own; the keys and what is done to values follow
``convert_hf_to_gguf.py`` of llama.cpp, as it is in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType, GGUFWriter

F32 = npt.NDArray[np.float32]
#: A field of the configuration, perhaps inside others, or what is computed from some.
Source = str | Callable[[Any], Any]

#: GGUF key, without the architecture before it, by what it is read from.
_KEYS: dict[str, Source] = {
    "vocab_size": "vocab_size", "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}  # fmt: skip
_HEAD_SIZE: dict[str, Source] = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_ROPE_BASE: dict[str, Source] = {"rope.freq_base": "rope_parameters.rope_theta"}
_COHERE: dict[str, Source] = {
    "attention.layer_norm_epsilon": "layer_norm_eps", "logit_scale": "logit_scale", "rope.scaling.type": lambda _: "none",
}  # fmt: skip
#: Families whose rows of q and k are reordered.
PERMUTED = (
    "arcee",
    "granite",
    "granitemoe",
    "olmo",
    "mistral3",
    "smollm3",
    "granitehybrid",
    "deepseek",
    "minicpm",
    "internlm2",
    "baichuan",
    "deci",
)


def _first(config: Any, kind: str) -> Any:
    """The numbers of the first layer of a kind."""
    return config.per_layer_config[config.layer_types.index(kind)]


def _head_of(kind: str) -> Callable[[Any], Any]:
    """The size of a head in layers of a kind."""
    return lambda config: _first(config, kind).head_dim


def _wide_networks(config: Any) -> Any:
    """The sizes of dense networks, which are twice as large in layers that share keys."""
    size, own = config.intermediate_size, config.num_hidden_layers - config.num_kv_shared_layers
    return [size * (1 + (layer >= own)) for layer in range(config.num_hidden_layers)] if config.use_double_wide_mlp else size


_MAMBA: dict[str, Source] = {
    "context_length": lambda _: 1 << 20, "feed_forward_length": lambda _: 0, "attention.head_count": lambda _: 0,
    "attention.layer_norm_rms_epsilon": "layer_norm_epsilon", "ssm.conv_kernel": "conv_kernel", "ssm.state_size": "state_size",
    "ssm.inner_size": "intermediate_size", "ssm.time_step_rank": "time_step_rank",
    "ssm.dt_b_c_rms": lambda config: config.model_type == "falcon_mamba",
}  # fmt: skip
_GEMMA_4: dict[str, Source] = {
    "rope.freq_base": "rope_parameters.full_attention.rope_theta", "rope.freq_base_swa": "rope_parameters.sliding_attention.rope_theta",
    "attention.sliding_window": "sliding_window", "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
    "attention.shared_kv_layers": "num_kv_shared_layers", "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), _head_of("full_attention")),
    **dict.fromkeys(("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"), _head_of("sliding_attention")),
    "feed_forward_length": _wide_networks,
    "attention.head_count_kv": lambda config: [config.per_layer_config[layer].num_key_value_heads for layer in range(config.num_hidden_layers)],
    "expert_count": "num_experts", "expert_used_count": "top_k_experts", "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_GEMMA_3N: dict[str, Source] = {
    **_HEAD_SIZE, "rope.freq_base": "rope_parameters.full_attention.rope_theta",
    **{key: _GEMMA_4[key] for key in (
        "rope.freq_base_swa", "attention.sliding_window", "attention.sliding_window_pattern", "final_logit_softcapping",
        "attention.shared_kv_layers", "embedding_length_per_layer_input",
    )},
    "altup.active_idx": "altup_active_idx", "altup.num_inputs": "altup_num_inputs",
    "activation_sparsity_scale": lambda config: torch.distributions.Normal(0, 1).icdf(torch.tensor(config.activation_sparsity_pattern)).tolist(),
}  # fmt: skip
_QWEN_EXPERTS: dict[str, Source] = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}  # fmt: skip
_DELTA_NET: dict[str, Source] = {
    "ssm.conv_kernel": "linear_conv_kernel_dim", "ssm.state_size": "linear_key_head_dim", "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": lambda config: config.linear_value_head_dim * config.linear_num_value_heads,
    "attention.recurrent_layers": lambda config: [kind == "linear_attention" for kind in config.layer_types],
    "full_attention_interval": lambda config: getattr(config, "full_attention_interval", 4),
}  # fmt: skip


def _rope_dims(config: Any) -> int:
    return int(config.head_dim * config.rope_parameters["partial_rotary_factor"])


def _yarn(where: str) -> dict[str, Source]:
    """The keys of YaRN, by the fields inside ``where``."""
    fields = {
        "type": "rope_type", "factor": "factor", "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
    }  # fmt: skip
    return {f"rope.scaling.{key}": f"{where}.{field}" for key, field in fields.items()}


_GRANITE: dict[str, Source] = {
    **_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads,
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}  # fmt: skip
_EXPERTS: dict[str, Source] = {
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts", "leading_dense_block_count": "first_k_dense_replace",
    "expert_weights_scale": "routed_scaling_factor",
}  # fmt: skip
_LATENT: dict[str, Source] = {
    **_EXPERTS, **_ROPE_BASE, "rope.dimension_count": "qk_rope_head_dim", "attention.kv_lora_rank": "kv_lora_rank",
    # Without it llama.cpp loads no model of few layers.
    "attention.q_lora_rank": lambda config: config.q_lora_rank or 0,
    "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
}  # fmt: skip
#: The sizes of heads where k and v of all heads are computed, and where attention is over the latent.
_HEADS_OF_LATENT: dict[bool, dict[str, Source]] = {
    False: {
        "attention.key_length": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim, "attention.value_length": "v_head_dim",
    },
    True: {
        "attention.head_count_kv": lambda _: 1, "attention.key_length": lambda config: config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": "kv_lora_rank", "attention.value_length_mla": "v_head_dim",
        "attention.key_length_mla": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
    },
}  # fmt: skip


_NEMOTRON_EXPERTS = {
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size", "expert_shared_count": "n_shared_experts",
    "expert_weights_norm": "norm_topk_prob", "expert_weights_scale": "routed_scaling_factor", "expert_group_count": "n_group",
    "moe_latent_size": "moe_latent_size",
}  # fmt: skip


def _yarn_deepseek(config: Any) -> dict[str, Source]:
    """The keys of YaRN with its factor of the scores, where there is one."""
    if config.rope_parameters["rope_type"] != "yarn":
        return {}
    return {
        **_yarn("rope_parameters"),
        "rope.scaling.yarn_log_multiplier": lambda config: 0.1 * config.rope_parameters["mscale_all_dim"],
    }


_AXES: dict[str, Source] = {"rope.dimension_sections": lambda config: [*config.rope_parameters["mrope_section"], 0]}
_QWEN_3_5: dict[str, Source] = {
    **_HEAD_SIZE, **_ROPE_BASE, **_DELTA_NET, **_AXES, "rope.dimension_count": _rope_dims,
}  # fmt: skip


def _layer_norm(field: str) -> dict[str, Source]:
    """The key of the epsilon of LayerNorms, in place of RMSNorms'."""
    return {"attention.layer_norm_epsilon": field, "attention.layer_norm_rms_epsilon": lambda _: None}


_PARTIAL_ROPE: dict[str, Source] = {
    "rope.dimension_count": lambda config: int(
        config.rope_parameters["partial_rotary_factor"] * (config.hidden_size // config.num_attention_heads)
    )
}


def _network_of_lfm2(config: Any) -> int:
    """The size of the network, which transformers makes of the one in the configuration."""
    size = int(config.block_ffn_dim_multiplier * int(2 * config.intermediate_size / 3))
    return -(-size // config.block_multiple_of) * config.block_multiple_of


def _head_of_falcon(config: Any) -> int:
    return int(config.hidden_size // config.num_attention_heads)


_LFM: dict[str, Source] = {
    **_ROPE_BASE, "attention.layer_norm_rms_epsilon": "norm_eps", "shortconv.l_cache": "conv_L_cache",
    "attention.head_count_kv": lambda config: [0 if kind == "conv" else config.num_key_value_heads for kind in config.layer_types],
}  # fmt: skip
_BERT_KEYS: dict[str, Source] = {
    **_layer_norm("layer_norm_eps"), "attention.causal": lambda _: False, "attention.head_count_kv": lambda _: None,
}  # fmt: skip
#: The same of each of transformers' kinds of model, beside those.
_KEYS_OF: dict[str, dict[str, Source]] = {
    "olmo2": _ROPE_BASE,
    # YaRN is of the layers that see everything.
    "olmo3": {
        "rope.freq_base": "rope_parameters.full_attention.rope_theta", "rope.freq_base_swa": "rope_parameters.sliding_attention.rope_theta",
        "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
        "rope.scaling.yarn_attn_factor": "rope_parameters.full_attention.attention_factor", **_yarn("rope_parameters.full_attention"),
    },
    "olmo": {
        "attention.layer_norm_rms_epsilon": lambda _: None, "attention.layer_norm_epsilon": lambda _: 1e-5,
        **_ROPE_BASE, "attention.clamp_kqv": "clip_qkv",
    },
    "arcee": {**_HEAD_SIZE, **_ROPE_BASE, "rope.dimension_count": "head_dim"},
    "ministral3": {
        **_HEAD_SIZE, **_ROPE_BASE, "rope.dimension_count": "head_dim", **_yarn("rope_parameters"),
        "rope.scaling.yarn_log_multiplier": "rope_parameters.mscale_all_dim",
        "attention.temperature_scale": "rope_parameters.llama_4_scaling_beta",
    },
    "smollm3": {**_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads},
    "cohere": {**_ROPE_BASE, **_COHERE},
    "cohere2": {
        **_ROPE_BASE, **_COHERE, **_HEAD_SIZE, "attention.sliding_window": "sliding_window", "rope.dimension_count": "head_dim",
    },
    "exaone": {**_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads},
    "exaone4": {
        **_ROPE_BASE, "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
    },
    "exaone_moe": {
        **_HEAD_SIZE, **_ROPE_BASE, **_EXPERTS, "expert_count": "num_experts", "expert_shared_count": "num_shared_experts",
        "expert_shared_feed_forward_length": lambda config: config.moe_intermediate_size * config.num_shared_experts,
        "expert_weights_norm": "norm_topk_prob", "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID),
        "expert_group_count": "n_group", "expert_group_used_count": "topk_group", "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
        "nextn_predict_layers": lambda _: 0, "rope.scaling.type": lambda _: "none",
    },
    "mimo_v2_flash": {
        **_EXPERTS, "expert_shared_count": lambda _: None, "leading_dense_block_count": lambda _: None,
        "attention.head_count_kv": lambda config: [
            config.num_key_value_heads * (2 if kind == "sliding_attention" else 1) for kind in config.layer_types
        ],
        "attention.key_length": "head_dim", "attention.value_length": "v_head_dim", "attention.value_scale": "attention_value_scale",
        "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": lambda config: [int(kind == "sliding_attention") for kind in config.layer_types],
        "rope.freq_base": "rope_parameters.full_attention.rope_theta", "rope.freq_base_swa": "rope_parameters.sliding_attention.rope_theta",
        "rope.dimension_count": lambda config: int(config.head_dim * config.rope_parameters["full_attention"]["partial_rotary_factor"]),
    },
    "seed_oss": {**_HEAD_SIZE, **_ROPE_BASE},
    "ernie4_5": {**_HEAD_SIZE, **_ROPE_BASE},
    "ernie4_5_moe": {
        **_ROPE_BASE, "expert_count": "moe_num_experts", "expert_used_count": "moe_k", "interleave_moe_layer_step": "moe_layer_interval",
        "leading_dense_block_count": "moe_layer_start_index", "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_count": "moe_num_shared_experts",
        # In published models that is the size of the shared experts together.
        "expert_shared_feed_forward_length": lambda config: config.intermediate_size // config.num_key_value_heads,
    },
    # The base of RoPE is not written: it is always 10,000.
    "gemma2": {
        **_HEAD_SIZE, "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
        "attention.sliding_window": "sliding_window",
    },
    "granite": _GRANITE,
    # The base of RoPE is not written here either.
    "gemma": _HEAD_SIZE,
    # The size of an expert is that of the network which there is not.
    "olmoe": {**_ROPE_BASE, "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
    "granitemoeshared": {
        **_GRANITE, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
        "expert_shared_feed_forward_length": "shared_intermediate_size",
    },
    "minimax_m2": {
        **_HEAD_SIZE, **_ROPE_BASE, "rope.dimension_count": _rope_dims, "expert_count": "num_local_experts",
        "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "intermediate_size",
        "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID),
    },
    "dots1": {
        **_ROPE_BASE, **_EXPERTS, "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID),
        "expert_weights_norm": "norm_topk_prob",
    },
    "afmoe": {
        **_HEAD_SIZE, **_ROPE_BASE, "rope.dimension_count": "head_dim", "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_count": "num_shared_experts", "leading_dense_block_count": "num_dense_layers",
        "expert_weights_scale": "route_scale", "expert_weights_norm": lambda _: True,
        "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID), "attention.sliding_window": "sliding_window",
    },
    "glm": {**_ROPE_BASE, "rope.dimension_count": _rope_dims},
    "glm4": {
        **_HEAD_SIZE, **_ROPE_BASE,
        "rope.dimension_count": lambda config: int(config.head_dim * config.rope_parameters["partial_rotary_factor"]),
    },
    "glm4_moe": {
        **_HEAD_SIZE, **_ROPE_BASE,
        "rope.dimension_count": lambda config: int(config.head_dim * config.rope_parameters["partial_rotary_factor"]),
        **_EXPERTS, "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID), "expert_weights_norm": "norm_topk_prob",
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": {
        **_LATENT, "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID), "expert_weights_norm": "norm_topk_prob",
    },
    "qwen3_next": {**_HEAD_SIZE, **_ROPE_BASE, **_DELTA_NET, **_QWEN_EXPERTS, "rope.dimension_count": _rope_dims},
    "qwen3_5_text": _QWEN_3_5,
    # There is no dense network, and no size of one.
    "qwen3_5_moe_text": {**_QWEN_3_5, **_QWEN_EXPERTS, "feed_forward_length": lambda _: None},
    "hunyuan_v1_dense": {
        **_HEAD_SIZE,
        "rope.freq_base": lambda config: config.rope_parameters["rope_theta"]
        * config.rope_parameters["alpha"] ** (config.head_dim / (config.head_dim - 2)),
        "rope.scaling.type": lambda _: "none", "rope.scaling.factor": lambda _: 1.0,
    },
    "hunyuan_v1_moe": {
        **_HEAD_SIZE, **_ROPE_BASE, "expert_count": "num_experts", "expert_used_count": "moe_topk",
        "expert_feed_forward_length": "intermediate_size", "expert_shared_feed_forward_length": "intermediate_size",
        "expert_shared_count": lambda _: 1,
    },
    "apertus": {**_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads},
    "starcoder2": {**_ROPE_BASE, **_layer_norm("norm_epsilon")},
    # No converter writes how far apart experts may be, and the factor of cosines and sines is that of LongRoPE there.
    "phimoe": {
        **_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads,
        "rope.scaling.original_context_length": "rope_parameters.original_max_position_embeddings",
        "rope.scaling.attn_factor": "rope_parameters.short_mscale",
        "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok", "router_jitter_noise": "router_jitter_noise",
    },
    # No converter writes the activation: llama.cpp has SiLU in any case.
    "bitnet": {
        **_ROPE_BASE, "rope.scaling.type": lambda _: "linear", "rope.scaling.factor": lambda _: 1.0,
        "hidden_activation": lambda config: None if config.hidden_act == "silu" else config.hidden_act,
    },
    "jais2": {**_HEAD_SIZE, **_ROPE_BASE, **_layer_norm("layer_norm_eps"), "rope.dimension_count": "head_dim"},
    "stablelm": {**_layer_norm("layer_norm_eps"), **_PARTIAL_ROPE, "use_parallel_residual": "use_parallel_residual"},
    "phi": {**_layer_norm("layer_norm_eps"), **_PARTIAL_ROPE},
    # No converter writes the activation: llama.cpp has GELU by tanh in any case.
    "gpt_neox": {
        **_layer_norm("layer_norm_eps"), **_PARTIAL_ROPE, "use_parallel_residual": "use_parallel_residual",
        "attention.head_count_kv": lambda _: None, "hidden_activation": lambda config: None if config.hidden_act == "gelu_new" else "gelu",
    },
    # Neither the scales nor the size of a head of v are written.
    "minicpm3": {
        "rope.dimension_count": "qk_rope_head_dim", "attention.kv_lora_rank": "kv_lora_rank", "attention.q_lora_rank": "q_lora_rank",
        "attention.key_length": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
    },
    "falcon": {
        **_layer_norm("layer_norm_epsilon"), "feed_forward_length": "ffn_hidden_size",
        "attention.head_count_kv": lambda config: 1 if config.multi_query and not config.new_decoder_architecture else config.num_kv_heads,
        "hidden_activation": lambda config: None if config.activation == "gelu_new" else "gelu", "tensor_data_layout": lambda _: "jploski",
    },
    "gpt2": {
        **_layer_norm("layer_norm_epsilon"), "feed_forward_length": lambda config: 4 * config.n_embd, "attention.head_count_kv": lambda _: None,
    },
    "dbrx": {
        **_layer_norm(""), "attention.layer_norm_epsilon": lambda _: 1e-5, **_ROPE_BASE,
        "attention.head_count_kv": lambda config: config.attn_config.kv_n_heads,
        "attention.clamp_kqv": lambda config: config.attn_config.clip_qkv,
        "feed_forward_length": lambda config: config.ffn_config.ffn_hidden_size,
        "expert_count": lambda config: config.ffn_config.moe_num_experts, "expert_used_count": lambda config: config.ffn_config.moe_top_k,
    },
    # No converter writes the activation: llama.cpp has GELU by tanh in any case.
    "gpt_bigcode": {
        **_layer_norm("layer_norm_epsilon"), "feed_forward_length": lambda config: 4 * config.n_embd,
        "attention.head_count_kv": lambda config: 1 if config.multi_query else config.n_head,
        "hidden_activation": lambda config: None if config.activation_function == "gelu_pytorch_tanh" else "gelu",
    },
    # The epsilon is written under both names.
    "nemotron": {
        **_ROPE_BASE, **_layer_norm("norm_eps"), **_PARTIAL_ROPE, "attention.layer_norm_rms_epsilon": "norm_eps",
        "rope.scaling.type": lambda _: "none",
    },
    "lfm2": _LFM | {"feed_forward_length": _network_of_lfm2},
    "lfm2_moe": _LFM | {
        "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
        "leading_dense_block_count": "num_dense_layers", "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID),
    },
    # A chunk of 8,192 positions and the same step of growing queries are not written: llama.cpp takes them in any case.
    "llama4_text": {
        **_HEAD_SIZE, **_ROPE_BASE, "rope.dimension_count": "head_dim", "feed_forward_length": "intermediate_size_mlp",
        "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "intermediate_size",
        "interleave_moe_layer_step": "interleave_moe_layer_step",
        "attention.sliding_window": lambda config: config.attention_chunk_size if config.attention_chunk_size != 8192 else None,
        "attention.temperature_length": lambda config: config.floor_scale if config.floor_scale != 8192 else None,
    },
    "bert": _BERT_KEYS,
    "xlm-roberta": _BERT_KEYS | {
        "context_length": lambda config: config.max_position_embeddings - config.pad_token_id - 1,
        # No converter writes it: llama.cpp has GELU by tanh in any case.
        "hidden_activation": "hidden_act",
    },
    "nomic_bert": _BERT_KEYS | _ROPE_BASE,
    # The epsilon is written under both names, as published files of the configuration have it twice.
    "modernbert": {
        **_layer_norm("norm_eps"), "attention.layer_norm_rms_epsilon": "norm_eps", "attention.causal": lambda _: False,
        "attention.head_count_kv": lambda _: None, "attention.sliding_window": "local_attention",
        "attention.sliding_window_pattern": lambda _: 3, "hidden_activation": "hidden_activation", "rope.scaling.type": lambda _: "none",
        "rope.freq_base": "rope_parameters.full_attention.rope_theta", "rope.freq_base_swa": "rope_parameters.sliding_attention.rope_theta",
    },
    # The window is that of the file, and not what the class makes of it.
    "gemma3_text": {
        **_HEAD_SIZE, "rope.freq_base": "rope_parameters.full_attention.rope_theta",
        "attention.sliding_window": lambda config: (config.sliding_window - 1) * 2,
        "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
    },
    "qwen3": {**_HEAD_SIZE, **_ROPE_BASE},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), _ROPE_BASE | _AXES),
    "qwen3_vl_text": {**_HEAD_SIZE, **_ROPE_BASE, **_AXES, "n_deepstack_layers": lambda _: 3},
    "qwen3_vl_moe_text": {
        **_HEAD_SIZE, **_ROPE_BASE, **_AXES, "n_deepstack_layers": lambda _: 3, "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size",
    },
    "falcon_h1": {
        **_ROPE_BASE, "attention.key_length": _head_of_falcon, "attention.value_length": _head_of_falcon, "ssm.conv_kernel": "mamba_d_conv",
        "ssm.state_size": "mamba_d_state", "ssm.group_count": "mamba_n_groups", "ssm.inner_size": "mamba_d_ssm",
        "ssm.time_step_rank": "mamba_n_heads",
    },
    "granitemoehybrid": {
        **_ROPE_BASE, "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads,
        "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling", "expert_shared_feed_forward_length": "shared_intermediate_size",
        "expert_count": lambda config: config.num_local_experts or None,
        "expert_used_count": lambda config: config.num_experts_per_tok or None,
        "ssm.conv_kernel": "mamba_d_conv", "ssm.state_size": "mamba_d_state", "ssm.group_count": "mamba_n_groups",
        "ssm.inner_size": lambda config: config.mamba_expand * config.hidden_size, "ssm.time_step_rank": "mamba_n_heads",
        "attention.head_count_kv": lambda config: [
            config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types
        ],
        "rope.scaling.finetuned": lambda config: config.position_embedding_type == "rope",
        "context_length": lambda config: config.max_position_embeddings if config.position_embedding_type == "rope" else 1 << 20,
    },
    # There is no attention and no network, and llama.cpp wants to be told so.
    "mamba": _MAMBA,
    "jamba": {
        "attention.head_count_kv": lambda config: [config.num_key_value_heads * (kind == "full_attention") for kind in config.layer_types],
        "ssm.conv_kernel": "mamba_d_conv", "ssm.inner_size": lambda config: config.mamba_expand * config.hidden_size,
        "ssm.state_size": "mamba_d_state", "ssm.time_step_rank": "mamba_dt_rank", "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
    },
    "falcon_mamba": _MAMBA,
    "mamba2": {
        "context_length": lambda _: 1 << 20, "feed_forward_length": lambda _: 0, "attention.head_count": lambda _: 0,
        "attention.layer_norm_rms_epsilon": "layer_norm_epsilon", "ssm.conv_kernel": "conv_kernel", "ssm.state_size": "state_size",
        "ssm.inner_size": lambda config: config.num_heads * config.head_dim, "ssm.time_step_rank": "num_heads",
        "ssm.group_count": "n_groups",
    },
    "nemotron_h": {
        **_HEAD_SIZE, "context_length": lambda _: 1 << 20, **_layer_norm("layer_norm_epsilon"),
        "feed_forward_length": lambda config: [
            {"mlp": config.intermediate_size, "moe": config.moe_intermediate_size}.get(kind, 0) for kind in config.layers_block_type
        ],
        "attention.head_count_kv": lambda config: [config.num_key_value_heads * (kind == "full_attention") for kind in config.layers_block_type],
        "ssm.conv_kernel": "conv_kernel", "ssm.state_size": "ssm_state_size", "ssm.group_count": "n_groups",
        "ssm.inner_size": lambda config: config.mamba_num_heads * config.mamba_head_dim, "ssm.time_step_rank": "mamba_num_heads",
        "rope.scaling.finetuned": lambda _: False,
        **{
            key: lambda config, field=field: getattr(config, field) if "moe" in config.layers_block_type else None
            for key, field in _NEMOTRON_EXPERTS.items()
        },
    },
    "gemma4_text": _GEMMA_4,
    "gemma3n_text": _GEMMA_3N,
    "gpt_oss": {
        **_HEAD_SIZE, **_ROPE_BASE, "attention.sliding_window": "sliding_window", "expert_count": "num_local_experts",
        "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "intermediate_size",
        **_yarn("rope_parameters"),
    },
}  # fmt: skip

#: The same by architecture, of families whose models another class computes.
_KEYS_BY_ARCHITECTURE: dict[str, dict[str, Source]] = {
    "bailingmoe2": {
        **_HEAD_SIZE, **_ROPE_BASE, **_EXPERTS, "rope.dimension_count": _rope_dims, "rope.scaling.type": lambda _: "none",
        "expert_shared_feed_forward_length": "moe_intermediate_size", "expert_weights_norm": "norm_topk_prob",
        "expert_gating_func": lambda _: int(gguf.ExpertGatingFuncType.SIGMOID), "expert_group_count": "n_group",
        "expert_group_used_count": "topk_group",
    },
    "minicpm": {
        **_ROPE_BASE, "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
    },
    "internlm2": _ROPE_BASE,
    "deci": {
        **_ROPE_BASE,
        **{
            key: lambda config, place=place: [sizes[place] for sizes in config.deci_layers]
            for place, key in enumerate(("attention.head_count", "attention.head_count_kv", "feed_forward_length"))
        },
        **dict.fromkeys(
            ("attention.key_length", "attention.value_length", "rope.dimension_count"),
            lambda config: config.hidden_size // config.num_attention_heads,
        ),
    },
    # The base of RoPE is not written: it is always 10,000.
    "baichuan": {
        "rope.dimension_count": lambda config: config.hidden_size // config.num_attention_heads,
        "tensor_data_layout": lambda _: "Meta AI original pth",
    },
    "deepseek": {
        **_ROPE_BASE, **_EXPERTS, "rope.dimension_count": "head_dim", "rope.scaling.type": lambda _: "none",
        "leading_dense_block_count": lambda config: config.mlp_layer_types.count("dense"), "expert_weights_scale": lambda _: 1.0,
    },
}  # fmt: skip


#: What transformers 5 calls otherwise than the published checkpoint, whose names the converter knows.
_NOMIC = {
    "embeddings.LayerNorm": "emb_ln", "self_attn.o_proj": "attn.out_proj", "mlp.up_proj": "mlp.fc11", "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2", "post_attention_layernorm": "norm1", "post_mlp_layernorm": "norm2",
}  # fmt: skip
#: Whose norms multiply by 1 + weight.
ONE_MORE = ("gemma", "gemma2", "gemma-embedding", "qwen3next", "qwen35", "qwen35moe", "nemotron")


def _neighbours(rows: F32, heads: int) -> F32:
    """Rows of q or k from an order in which RoPE pairs halves of a head to one in which it pairs neighbours."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _experts(architecture: str, name: str, values: F32) -> Iterator[tuple[str, F32]]:
    """gpt-oss has the gate and the up projection in alternating columns. There and in Llama 4 matrices have the rows of x first."""
    if architecture != "gpt-oss":
        path, _, part = name.rpartition(".")
        values = values.swapaxes(1, 2) if architecture == "llama4" else values
        halves = np.split(values, 2, axis=1) if part == "gate_up_proj" else [values]
        yield from zip((f"{path}.{one}.weight" for one in (("gate_proj", "up_proj") if len(halves) == 2 else (part,))), halves, strict=True)
        return
    base = name.removesuffix("_bias")
    parts = {"gate_up_proj": ("gate_proj", "up_proj")}.get(base.rpartition(".")[2], (base.rpartition(".")[2],))
    for index, part in enumerate(parts):
        own = values[..., index :: len(parts)]
        path = f"{base.rpartition('.')[0]}.{part}"
        yield (f"{path}.bias", own) if base != name else (f"{path}.weight", own.swapaxes(1, 2))


def _far_apart(config: Any, name: str, values: F32) -> F32:
    """With heads of v that share one of q and k as far apart as there are heads of q and k, and no longer neighbours."""
    groups, size = config.linear_num_key_heads, config.linear_value_head_dim

    def moved(rows: F32, head: int) -> F32:
        return rows.reshape(groups, -1, head, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    keys = 2 * groups * config.linear_key_head_dim
    if "in_proj_qkv." in name or "conv1d" in name:
        return np.concatenate([values[:keys], moved(values[keys:], size)])
    if "out_proj" in name:
        return moved(values.T, size).T
    if "in_proj_z" in name:
        return moved(values, size)
    return values if "linear_attn.norm" in name else moved(values, 1)


def _delta_net(config: Any, name: str, values: F32) -> Iterator[tuple[str, F32]]:
    """Those of a gated delta net: q, k and v of all heads side by side, the gate by itself, and the rates of decay themselves."""
    path, _, end = name.rpartition(".")
    if config.model_type.startswith("qwen3_5"):
        values = _far_apart(config, name, values)
    if end == "A_log":
        yield name, (-np.exp(values.astype(np.float64))).astype(np.float32)
    elif end == "dt_bias":
        yield f"{path}.dt_proj.bias", values
    elif path.endswith("conv1d"):
        yield name, values[:, 0]
    elif path.endswith("in_proj_qkvz"):
        size, share = (
            config.linear_key_head_dim,
            config.linear_value_head_dim * config.linear_num_value_heads // config.linear_num_key_heads,
        )
        parts = np.split(values.reshape(config.linear_num_key_heads, -1, values.shape[1]), np.cumsum([size, size, share]), axis=1)
        q, k, v, gate = (part.reshape(-1, values.shape[1]) for part in parts)
        yield name.replace("linear_attn.in_proj_qkvz", "self_attn.qkv_proj"), np.concatenate([q, k, v])
        yield "attn_gate" + name, gate
    else:
        yield name, values


def _shared_network(name: str, values: F32, *, has_experts: bool) -> Iterator[tuple[str, F32]]:
    """Those of Granite's shared network: gate and up apart, under the names of the only network where there are no experts."""
    path = name.partition("shared_mlp")[0] + ("mlp.shared_expert" if has_experts else "mlp")
    if "output_linear" in name:
        yield f"{path}.down_proj.weight", values
    else:
        yield from zip((f"{path}.gate_proj.weight", f"{path}.up_proj.weight"), np.split(values, 2), strict=True)


def _of_falcon(config: Any, name: str, values: F32) -> F32:
    """Those of Falcon-H1 times the factors of the configuration, as convert_hf_to_gguf.py multiplies them."""
    inner, keys = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
    columns = np.repeat(np.array(config.ssm_multipliers, np.float32), [inner, inner, keys, keys, config.mamba_n_heads])[:, None]
    factors = {
        "down_proj": config.mlp_multipliers[1], "gate_proj": config.mlp_multipliers[0],
        "k_proj": config.key_multiplier * config.attention_in_multiplier, "q_proj": config.attention_in_multiplier,
        "v_proj": config.attention_in_multiplier, "o_proj": config.attention_out_multiplier, "out_proj": config.ssm_out_multiplier,
        "in_proj": config.ssm_in_multiplier * columns, "lm_head": config.lm_head_multiplier, "embed_tokens": config.embedding_multiplier,
    }  # fmt: skip
    part = name.split(".")[-2]
    return values * np.float32(factors[part]) if part in factors else values


def _state_space(groups: int, name: str, values: F32) -> Iterator[tuple[str, F32]]:
    """Those of a state space: the rates of decay themselves, vectors of one number for each head as columns, a row of the norm a group."""
    path, _, end = name.rpartition(".")
    if end == "A_log":
        yield name, (-np.exp(values.astype(np.float64))).astype(np.float32)[:, None]
    elif end == "D":
        yield name, values[:, None]
    elif end == "dt_bias":
        yield f"{path}.dt_proj.bias", values
    elif name.endswith("conv1d.weight"):
        yield name, values[:, 0]
    else:
        yield name, values.reshape(groups, -1) if name.endswith(".norm.weight") else values


def _selective_space(name: str, values: F32) -> Iterator[tuple[str, F32]]:
    """Those of a selective state space: the rates of decay themselves."""
    if name.endswith("A_log"):
        yield name, (-np.exp(values.astype(np.float64))).astype(np.float32)
    else:
        yield name, values[:, 0] if name.endswith("conv1d.weight") else values


def _absorbed(name: str, config: Any, rows: F32) -> Iterator[tuple[str, F32]]:
    """kv_b_proj as a matrix of k and one of v for each head, that of k the other way round."""
    heads = rows.reshape(config.num_attention_heads, -1, rows.shape[-1])
    k, v = np.split(heads, [config.qk_nope_head_dim], axis=1)
    yield name.replace("kv_b_proj", "k_b_proj"), k.swapaxes(1, 2)
    yield name.replace("kv_b_proj", "v_b_proj"), v


#: What of a layer is no module's weight, or has a name in GGUF that the package does not give.
_GEMMA_4_TENSORS = {
    "router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale", "layer_scalar": "layer_output_scale.weight",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight", "experts.down_proj": "ffn_down_exps.weight",
}  # fmt: skip


def _llama3_factors(config: Any) -> F32:
    """What RoPE's frequencies are divided by (Llama 3.1): 1 for short waves, the factor for long ones, and between in between."""
    rope, size = config.rope_parameters, config.hidden_size // config.num_attention_heads
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((rope["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)


def _rope_factors(config: Any) -> Iterator[tuple[str, F32]]:
    """What RoPE's frequencies are divided by: in layers of Gemma 4 that see everything, by so much that most pairs do not turn."""
    if config.model_type == "gemma4_text":
        size, share = _head_of("full_attention")(config), config.rope_parameters["full_attention"]["partial_rotary_factor"]
        turned = int(size * share / 2)
        yield "rope_freqs.weight", np.array([1.0] * turned + [1e30] * (size // 2 - turned), np.float32)
    elif config.model_type in ("phimoe", "minicpm3"):
        for part in ("long", "short"):
            yield f"rope_factors_{part}.weight", np.array(config.rope_parameters[f"{part}_factor"], np.float32)
    elif (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)


def _nomic(name: str, state: Mapping[str, F32]) -> Iterator[tuple[str, F32]]:
    """With q, k and v as one tensor."""
    own = f"encoder.{name}" if name.startswith("layers.") else name
    if ".q_proj." in name:
        parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
        yield own.replace("self_attn.q_proj", "attn.Wqkv"), np.concatenate(parts)
    elif ".k_proj." not in name and ".v_proj." not in name:
        for part, theirs in _NOMIC.items():
            own = own.replace(part, theirs)
        yield own, state[name]


def _of_streams(state: Mapping[str, F32]) -> Iterator[tuple[str, F32]]:
    """The projections of Gemma 3n's streams, each kind in one."""
    for name in [name.removesuffix(".0.weight") for name in state if name.endswith("projections.0.weight")]:
        yield f"{name}.weight", np.stack([state[part] for part in state if part.startswith(f"{name}.")])


def _tensors(architecture: str, config: Any, state: Mapping[str, F32], absorbed: bool) -> Iterator[tuple[str, F32]]:
    """The tensors under transformers' names, each with an end .weight or .bias, as GGUF holds them."""
    for own_name, whole in state.items():
        # The package knows published names.
        name = own_name.replace("model.", "backbone.") if architecture.startswith("nemotron_h") else own_name
        values = _of_falcon(config, name, whole) if architecture == "falcon-h1" else whole
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name == "embeddings.position_embeddings.weight" and config.model_type == "xlm-roberta":
            yield name, values[config.pad_token_id + 1 :]
            continue
        if architecture == "nomic-bert":
            yield from _nomic(name, state)
        elif architecture == "bailingmoe2" and re.search(r"\.[qkv]_proj\.", name):
            if ".q_proj." in name:
                rows = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                yield f"blk.{name.split('.')[2]}.attn_qkv.weight", np.concatenate(rows)
        elif architecture in PERMUTED and ".q_proj." in name:
            yield name, _neighbours(values, config.num_attention_heads)
        elif architecture in PERMUTED and ".k_proj." in name:
            heads = config.num_key_value_heads
            if architecture == "deci":
                heads = config.deci_layers[int(name.split(".")[2])][1]
            yield name, _neighbours(values, heads)
        elif absorbed and ".kv_b_proj." in name:
            yield from _absorbed(name, config, values)
        elif architecture == "gemma4" and (ours := _GEMMA_4_TENSORS.get(name.split(".", 3)[-1])) is not None:
            yield f"blk.{name.split('.')[2]}.{ours}", values
        elif architecture == "gemma3n" and "projections." in name:
            continue  # see _of_streams
        elif name.endswith("correct_output_scale"):
            yield f"{name}.weight", values
        elif architecture == "dbrx" and ".experts." in name:
            matrices = values.reshape(config.ffn_config.moe_num_experts, -1, config.d_model)
            yield f"{name}.weight", matrices.swapaxes(1, 2) if name.endswith("w2") else matrices
        elif ".experts." in name:
            own = (
                name.replace("block_sparse_moe", "mlp")
                .replace("feed_forward", "mlp")
                .replace("backbone.", "model.")
                .replace(".mixer.", ".mlp.")
            )
            yield from _experts(architecture, own, values)
        elif name.endswith("block_sparse_moe.router.weight"):
            yield name.replace("router", "router.layer"), values
        elif architecture in ("mamba", "jamba") and (".mixer." in name or ".mamba." in name):
            yield from _selective_space(name, values)
        elif (".mixer." in name or ".mamba." in name) and not name.endswith("e_score_correction_bias"):
            yield from _state_space(config.n_groups if ".mixer." in name else config.mamba_n_groups, name, values)
        elif architecture.startswith("granite") and ".shared_mlp." in name:
            yield from _shared_network(name, values, has_experts=bool(config.num_local_experts))
        elif ".linear_attn." in name:
            yield from _delta_net(config, name, values)
        elif architecture in ONE_MORE and name.endswith("norm.weight"):
            yield name, values + np.float32(1)
        elif name.endswith("_sub_norm.weight"):
            yield name.replace("mlp.", "").replace("self_attn.", "").replace("model.layers", "blk"), values
        elif ".act_fn." in name or ".norms." in name:
            continue  # see _numbers and _norms_of_heads
        elif architecture == "starcoder" and ".attn.c_attn." in name and not config.multi_query:  # of each head by itself
            yield name, values.reshape(config.n_head, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        elif architecture == "gpt2" and re.search(r"\.c_(attn|proj|fc)\.weight$", name):
            yield name, values.T
        elif ".self_attention.query_key_value." in name:  # of each KV head with its query heads
            groups = config.num_kv_heads if config.new_decoder_architecture else 1
            rows = values.reshape(groups, -1, config.head_dim, *values.shape[1:])
            parts = (rows[:, :-2], rows[:, -2], rows[:, -1])
            yield name, np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])
        elif ".query_key_value." in name:  # of each head by itself
            yield name, values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        elif name.endswith(".conv.conv.weight"):
            yield name, values[:, 0]
        elif name.endswith("expert_bias"):
            yield f"{name}.bias", values
        elif name.endswith("e_score_correction_bias"):
            yield (
                name.replace("_bias", ".bias")
                .replace("gate.moe_statics", "moe_statics")
                .replace("mlp.e_score", "block_sparse_moe.e_score"),
                values.reshape(-1),
            )
        else:
            yield (f"{name}.weight" if name.endswith("sinks") else name), values


def _norms_of_heads(config: Any, state: Mapping[str, F32]) -> Iterator[tuple[str, F32]]:
    """One tensor of the norms of all heads of a layer."""
    for name in [name for name in state if name.endswith("norms.0.weight")]:
        base = name.removesuffix(".norms.0.weight")
        heads = config.num_attention_heads if "q_layernorm" in base else config.num_key_value_heads
        yield f"{base}.weight", np.stack([state[f"{base}.norms.{head}.weight"] for head in range(heads)])


def _numbers(config: Any, state: Mapping[str, F32]) -> Iterator[tuple[str, list[float]]]:
    """The numbers of activations that were learnt, which stand in the metadata: an array of one for each layer."""
    for part in ("alpha_p", "alpha_n", "beta", "eps"):
        names = [f"model.layers.{layer}.mlp.act_fn.{part}" for layer in range(config.num_hidden_layers)]
        if names[0] in state:
            yield f"xielu.{part}", [float(state[name].reshape(-1)[0]) for name in names]


def _value(config: Any, source: Source) -> Any:
    """What a key says; None where the configuration does not say it, as models with LayerNorms have no `rms_norm_eps`."""
    if callable(source):
        return source(config)
    field, *rest = source.split(".")
    value = getattr(config, field, None)
    for part in rest:
        value = value[part]
    return value


def write_gguf(
    path: Path,
    architecture: str,
    config: Any,
    state: Mapping[str, F32],
    formats: Mapping[str, str],
    *,
    absorbed: bool = False,
    pooling: str = "",
    dense: Sequence[F32] = (),
) -> None:
    """Write the model of that configuration and those weights, all F32 but those of ``formats``.

    ``formats`` maps parts of GGUF's names to block formats. ``absorbed``: latent attention is over the latent itself, as in files since
    2025. The file has no vocabulary, and says so. ``pooling`` and ``dense`` are those of an embedding model.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    is_latent = hasattr(config, "kv_lora_rank") and architecture != "minicpm3"
    of_latent = _HEADS_OF_LATENT[absorbed] | _yarn_deepseek(config) if is_latent else {}
    for key, source in (_KEYS | (_KEYS_BY_ARCHITECTURE.get(architecture) or _KEYS_OF[config.model_type]) | of_latent).items():
        value = _value(config, source)
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    if pooling:
        writer.add_pooling_type({"mean": gguf.PoolingType.MEAN, "first": gguf.PoolingType.CLS, "last": gguf.PoolingType.LAST}[pooling])
        is_encoder = any(name.startswith("embeddings.") for name in state)
        state = {name if is_encoder else f"model.{name}": values for name, values in state.items()}
    for number, matrix in enumerate(dense, start=2):
        writer.add_dense_features_dims(f"dense_{number}", matrix.shape[1], matrix.shape[0])
        writer.add_tensor(f"dense_{number}.weight", matrix)
    for key, numbers in _numbers(config, state):
        writer.add_array(key, numbers)
    writer.add_tokenizer_model("none")
    if hasattr(config, "type_vocab_size"):
        writer.add_token_type_count(config.type_vocab_size)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tensors = (
        *_rope_factors(config), *_of_streams(state), *_tensors(architecture, config, state, absorbed), *_norms_of_heads(config, state),
    )  # fmt: skip
    for name, values in tensors:
        theirs = name if name.startswith(("blk.", "rope_f")) else names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name.startswith("attn_gate"):
            theirs = f"blk.{name.split('.')[2]}.attn_gate.weight"
        assert theirs is not None, f"no name in GGUF for {name}"
        fmt = GGMLQuantizationType[next((fmt for part, fmt in formats.items() if part in theirs), "F32")]
        data = np.ascontiguousarray(values)
        writer.add_tensor(theirs, data if fmt == GGMLQuantizationType.F32 else gguf.quants.quantize(data, fmt), raw_dtype=fmt)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""Tiny random models of families, built in Hugging Face transformers from a configuration, and their GGUF files."""

from __future__ import annotations

import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2TextModel

from tests.golden.deci_layers import DeciLayer
from tests.golden.hf_to_gguf import F32, ONE_MORE, write_gguf
from tests.golden.transformers_models import LoadedModel

_EMBEDDINGS = (
    "model.embed_tokens.weight", "transformer.wte.weight", "embed_tokens.weight", "backbone.embeddings.weight",
    "transformer.word_embeddings.weight", "gpt_neox.embed_in.weight", "model.embeddings.weight", "embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight",
)  # fmt: skip
#: Those whose class is another's.
_CLASSES = {"Exaone": "Llama"}
FAMILIES = Path(__file__).parent / "families"


@dataclass(frozen=True)
class FamilyModel:
    """``config`` is of transformers' class ``{name}Config``, of a text model perhaps; ``formats`` and ``absorbed`` are as in ``write_gguf``.

    With ``pooling``, mean, first or last, it is an embedding model: its class has no head, and dense layers of ``dense`` rows may follow.
    With ``vision``, the configuration of an encoder of images, ``config`` is that of the text model inside.
    """

    architecture: str
    name: str
    config: dict[str, Any]
    formats: dict[str, str] = field(default_factory=dict)
    absorbed: bool = False
    pooling: str = ""
    dense: tuple[int, ...] = ()
    vision: dict[str, Any] = field(default_factory=dict)


#: Sizes are no multiples of any tile, and heads are not hidden / heads wide where they need not be.
_SIZES: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
}  # fmt: skip
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
_BIG_CODE: dict[str, Any] = {
    "vocab_size": 96, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_FALCON: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
}  # fmt: skip
_NEOX: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 64, "hidden_size": 24,
    "intermediate_size": 40, "layer_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "use_cache": False,
    "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
}  # fmt: skip
#: An encoder of images that sees none.
_VISION: dict[str, Any] = {"depth": 1, "hidden_size": 8, "num_heads": 2, "patch_size": 2, "out_hidden_size": 32}
_QWEN_VL: dict[str, Any] = _SIZES | {"tie_word_embeddings": False}
_INTERLEAVED: dict[str, Any] = _ROPE | {"rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
_GPT_OSS: dict[str, Any] = _SIZES | {
    "hidden_size": 44, "intermediate_size": 28, "head_dim": 16, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 4,
    "max_position_embeddings": 131072,
}  # fmt: skip
#: Of those with a layer of another kind in four.
_SMALL: dict[str, Any] = _SIZES | {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 4}
_COHERE: dict[str, Any] = {name: value for name, value in _SMALL.items() if name != "rms_norm_eps"} | {"rope_parameters": _ROPE}
_LAYER_NORM_SIZES: dict[str, Any] = {name: value for name, value in _SIZES.items() if name != "rms_norm_eps"} | {
    "hidden_size": 32, "intermediate_size": 44,
}  # fmt: skip
#: As in openai/gpt-oss-20b. Without ``truncate`` YaRN's ramp begins and ends between two pairs, here at 2.02 and 4.35.
_YARN: dict[str, Any] = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
#: llama.cpp always truncates. Here the ramp goes from 2.00003 to 3.99997, so that it makes no difference.
_YARN_WHOLE = _YARN | {"rope_theta": 1049020.0, "original_max_position_embeddings": 6435}

#: With first layers that are dense and shared experts behind them. Heads of v are smaller than those of q and k.
_LATENT: dict[str, Any] = _SIZES | {
    "hidden_size": 18, "intermediate_size": 16, "moe_intermediate_size": 8, "num_attention_heads": 3, "num_key_value_heads": 3,
    "kv_lora_rank": 10, "q_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6,
}  # fmt: skip
#: As in DeepSeek's models, where both mscales are one number.
_YARN_DEEPSEEK: dict[str, Any] = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
}  # fmt: skip

_LLAMA4: dict[str, Any] = _SMALL | {
    "intermediate_size": 10, "intermediate_size_mlp": 20, "head_dim": 8, "num_local_experts": 5,
    "rope_parameters": _ROPE | {"rope_theta": 500000.0},
}  # fmt: skip
_BERT: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 64, "hidden_size": 24,
    "intermediate_size": 36, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip

_DELTA_NET: dict[str, Any] = {
    "rms_norm_eps": 1e-6, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip

_LFM: dict[str, Any] = {name: value for name, value in _SIZES.items() if name != "rms_norm_eps"} | {
    "hidden_size": 24, "norm_eps": 1e-5, "conv_L_cache": 3, "rope_parameters": _ROPE | {"rope_theta": 1000000.0},
}  # fmt: skip

_GRANITE_HYBRID: dict[str, Any] = _SIZES | {
    "hidden_size": 24, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3, "logits_scaling": 8.0,
    "mamba_n_heads": 4, "mamba_d_state": 6, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 8,
}  # fmt: skip

#: All factors are powers of two, so that what conversion makes of weights can be undone.
_FALCON_H1: dict[str, Any] = _SIZES | {
    "hidden_size": 24, "intermediate_size": 28, "mamba_n_heads": 4, "mamba_d_head": 10, "mamba_d_ssm": 40, "mamba_d_state": 6,
    "mamba_n_groups": 2, "mamba_d_conv": 4, "mamba_chunk_size": 8, "rope_parameters": _ROPE | {"rope_theta": 1e11},
    "embedding_multiplier": 4.0, "lm_head_multiplier": 0.25, "key_multiplier": 0.5, "attention_in_multiplier": 2.0,
    "attention_out_multiplier": 0.5, "ssm_in_multiplier": 0.5, "ssm_out_multiplier": 2.0, "mlp_multipliers": [2.0, 0.5],
    "ssm_multipliers": [0.5, 2.0, 4.0, 0.5, 2.0],
}  # fmt: skip

_NEMOTRON_H: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "mamba_num_heads": 4,
    "mamba_head_dim": 10, "ssm_state_size": 6, "n_groups": 2, "conv_kernel": 4, "chunk_size": 8, "layer_norm_epsilon": 1e-5,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
}  # fmt: skip

_MAMBA: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "hidden_size": 20, "state_size": 6, "conv_kernel": 4, "layer_norm_epsilon": 1e-5,
    "residual_in_fp32": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
}  # fmt: skip

_SLIDING, _FULL = "sliding_attention", "full_attention"
#: The window and the cap bite, and RoPE turns two pairs of eight in layers that see everything.
_GEMMA_4: dict[str, Any] = _SIZES | {
    "hidden_size": 20, "intermediate_size": 28, "head_dim": 8, "global_head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 5.0,
    "tie_word_embeddings": True,
}  # fmt: skip

#: Of the four streams each has its own weights.
_GEMMA_3N: dict[str, Any] = _SIZES | {
    "hidden_size": 20, "intermediate_size": 28, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 30.0, "laurel_rank": 64,
    "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 96, "tie_word_embeddings": True,
}  # fmt: skip

#: The models by the names of their files. Prompts are of 11 tokens, longer than any window.
MODELS = {
    "olmo2-f32": FamilyModel("olmo2", "Olmo2", _SIZES | {
        "hidden_size": 40, "intermediate_size": 52, "rope_parameters": _ROPE | {"rope_theta": 500000.0},
    }),
    # OLMo 3 has the architecture of OLMo 2. The fourth layer alone sees everything and is stretched; the numbers are those of the 7B model.
    "olmo3-f32": FamilyModel("olmo2", "Olmo3", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 5, "sliding_window": 4, "max_position_embeddings": 65536,
        "rope_parameters": {
            "sliding_attention": _ROPE | {"rope_theta": 500000.0},
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
                "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
            },
        },
    }),
    # Both caps bite, and two of three layers have a window.
    "gemma2-f32": FamilyModel("gemma2", "Gemma2", _SIZES | {
        "hidden_size": 44, "intermediate_size": 36, "head_dim": 12, "num_hidden_layers": 3, "sliding_window": 5,
        "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "rope_parameters": _ROPE,
    }),
    "granite-f32": FamilyModel("granite", "Granite", _SIZES | {
        "hidden_size": 48, "intermediate_size": 44, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
        "attention_multiplier": 0.15, "logits_scaling": 8.0, "rope_parameters": _ROPE | {"rope_theta": 5000000.0},
        "tie_word_embeddings": True,
    }),
    "glm4-f32": FamilyModel("glm4", "Glm4", _SIZES | {
        "hidden_size": 44, "intermediate_size": 36, "head_dim": 12, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    # A dense layer first, and a bias that changes which experts are chosen. Heads are normalised, as in the models of 355B.
    "glm4moe-f32": FamilyModel("glm4moe", "Glm4Moe", _SIZES | {
        "hidden_size": 20, "intermediate_size": 28, "moe_intermediate_size": 12, "head_dim": 8, "n_routed_experts": 6,
        "num_experts_per_tok": 3, "n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 1.7, "norm_topk_prob": True,
        "use_qk_norm": True, "attention_bias": True, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    # Queries of positions 4 to 7 and from 8 on are larger by 1 + 0.5 ln 2 and 1 + 0.5 ln 3.
    "mistral3-f32": FamilyModel("mistral3", "Ministral3", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "head_dim": 12, "max_position_embeddings": 32, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1000.0, "factor": 8.0, "original_max_position_embeddings": 4, "beta_fast": 4.0,
            "beta_slow": 0.25, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5,
        },
    }),
    "smollm3-f32": FamilyModel("smollm3", "SmolLM3", _SMALL | {"rope_parameters": _ROPE | {"rope_theta": 5000000.0}}),
    "command-r-f32": FamilyModel("command-r", "Cohere", _COHERE | {"num_hidden_layers": 2, "logit_scale": 0.0625}),
    # Command R+ has norms of the heads of q and k.
    "command-r-plus-f32": FamilyModel("command-r", "Cohere", _COHERE | {"num_hidden_layers": 1, "use_qk_norm": True}),
    "cohere2-f32": FamilyModel("cohere2", "Cohere2", _COHERE | {"logit_scale": 0.25, "sliding_window": 4}),
    "exaone4-f32": FamilyModel("exaone4", "Exaone4", _SMALL | {
        "sliding_window": 4, "sliding_window_pattern": 4, "rope_parameters": _ROPE | {"rope_theta": 1000000.0},
    }),
    # A dense layer first, and a bias that changes which experts are chosen; of three groups two are used. The fourth layer sees everything, without RoPE.
    "exaone-moe-f32": FamilyModel("exaone-moe", "ExaoneMoe", _SMALL | {
        "head_dim": 8, "moe_intermediate_size": 10, "first_k_dense_replace": 1, "num_experts": 6, "num_experts_per_tok": 3,
        "num_shared_experts": 2, "n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5, "sliding_window": 4,
        "rope_parameters": _ROPE | {"rope_theta": 1000000.0},
    }),
    # A dense layer first, and a bias that changes which experts are chosen; the first and the last layer see everything.
    "mimo2-f32": FamilyModel("mimo2", "MiMoV2Flash", _SMALL | {
        "num_key_value_heads": 1, "head_dim": 12, "v_head_dim": 5, "moe_intermediate_size": 10, "n_routed_experts": 6,
        "num_experts_per_tok": 2, "sliding_window": 4, "layer_types": [
            "full_attention", "sliding_attention", "sliding_attention", "full_attention",
        ],
    }),
    # A whole layer, one without attention, one with a matrix in its place, one of nothing, and one with other sizes.
    "deci-f32": FamilyModel("deci", "Llama", _SIZES | {
        "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 256, "num_hidden_layers": 5,
        "deci_layers": [[2, 2, 256], [0, 0, 256], [2, 0, 256], [0, 0, 0], [2, 1, 512]], "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }),
    # RoPE is stretched as in EXAONE 3.5.
    "exaone-f32": FamilyModel("exaone", "Exaone", _SIZES | {
        "hidden_size": 48, "intermediate_size": 28, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }),
    "seed-oss-f32": FamilyModel("seed_oss", "SeedOss", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "head_dim": 12, "rope_parameters": _ROPE | {"rope_theta": 10000000.0},
    }),
    "ernie4-5-f32": FamilyModel("ernie4_5", "Ernie4_5", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "head_dim": 12, "rope_parameters": _ROPE | {"rope_theta": 500000.0},
    }),
    # A dense layer first, and a bias that changes which experts are chosen.
    "ernie4-5-moe-f32": FamilyModel("ernie4_5-moe", "Ernie4_5_Moe", _SIZES | {
        "hidden_size": 24, "intermediate_size": 24, "moe_intermediate_size": 6, "moe_num_experts": 6, "moe_k": 2,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "rope_parameters": _ROPE | {"rope_theta": 500000.0},
        "tie_word_embeddings": True,
    }),
    # As DeepSeek-V2: of four groups the two with the best expert; k and v of all heads are computed.
    "deepseek2-f32": FamilyModel("deepseek2", "DeepseekV2", _LATENT | {
        "n_shared_experts": 2, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5,
        "rope_parameters": _ROPE,
    }),
    # As DeepSeek-V2-Lite: no latent of q, no groups, YaRN; attention is over the latent.
    "deepseek2-lite-f32": FamilyModel("deepseek2", "DeepseekV2", _LATENT | {
        "q_lora_rank": None, "n_shared_experts": 2, "topk_method": "greedy", "n_group": 1, "topk_group": 1, "qk_rope_head_dim": 8,
        "max_position_embeddings": 163840, "rope_parameters": _YARN_DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707},
    }, absorbed=True),
    # As DeepSeek-V3: sigmoids, a bias that changes which experts are chosen, and the groups with the two best; attention is over the latent.
    "deepseek3-f32": FamilyModel("deepseek2", "DeepseekV3", _LATENT | {
        "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
        "max_position_embeddings": 163840, "rope_parameters": _YARN_DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0},
    }, absorbed=True),
    # A layer with a gated delta net, whose heads of v share those of q and k, and one with gated attention.
    "qwen3next-f32": FamilyModel("qwen3next", "Qwen3Next", _SIZES | _DELTA_NET | {
        "hidden_size": 20, "intermediate_size": 28, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 16,
        "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    "qwen35-f32": FamilyModel("qwen35", "Qwen3_5Text", _SIZES | _DELTA_NET | {
        "hidden_size": 20, "intermediate_size": 28,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0], "mrope_interleaved": True},
    }),
    # With biases of attention, its gate's among them, which llama.cpp does not load.
    "qwen35-f32-biases": FamilyModel("qwen35", "Qwen3_5Text", _SIZES | _DELTA_NET | {
        "hidden_size": 20, "intermediate_size": 28, "attention_bias": True,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0], "mrope_interleaved": True},
    }),
    "qwen35moe-f32": FamilyModel("qwen35moe", "Qwen3_5MoeText", _SIZES | _DELTA_NET | {
        "hidden_size": 20, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0], "mrope_interleaved": True},
    }),
    # The base of RoPE is stretched, as the published models have it.
    "hunyuan-dense-f32": FamilyModel("hunyuan-dense", "HunYuanDenseV1", _SIZES | {
        "hidden_size": 20, "intermediate_size": 28, "head_dim": 8, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0},
    }),
    "gemma-f32": FamilyModel("gemma", "Gemma", _SIZES | {"hidden_size": 24, "intermediate_size": 28, "head_dim": 8, "rope_parameters": _ROPE}),
    "olmoe-f32": FamilyModel("olmoe", "Olmoe", _SIZES | {
        "hidden_size": 24, "num_key_value_heads": 4, "intermediate_size": 12, "num_experts": 6, "num_experts_per_tok": 2,
        "rope_parameters": _ROPE,
    }),
    "granitemoe-f32": FamilyModel("granitemoe", "GraniteMoeShared", _SIZES | {
        "hidden_size": 24, "intermediate_size": 12, "shared_intermediate_size": 14, "num_local_experts": 5, "num_experts_per_tok": 2,
        "embedding_multiplier": 6.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25, "logits_scaling": 4.0,
        "rope_parameters": _ROPE, "tie_word_embeddings": True,
    }),
    # A bias that changes which experts are chosen.
    "minimax-m2-f32": FamilyModel("minimax-m2", "MiniMaxM2", _SIZES | {
        "hidden_size": 24, "intermediate_size": 12, "head_dim": 8, "num_local_experts": 6, "num_experts_per_tok": 2,
        "rope_parameters": _ROPE | {"rope_theta": 5e6, "partial_rotary_factor": 0.5},
    }),
    # A dense layer first, and a bias that changes which experts are chosen.
    "dots1-f32": FamilyModel("dots1", "Dots1", _SIZES | {
        "hidden_size": 24, "num_key_value_heads": 4, "intermediate_size": 28, "moe_intermediate_size": 12,
        "first_k_dense_replace": 1, "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "sliding_window": None, "rope_parameters": _ROPE,
    }),
    # A dense layer first, and a bias that changes which experts are chosen; the fourth layer sees everything, without RoPE.
    "afmoe-f32": FamilyModel("afmoe", "Afmoe", _SMALL | {
        "head_dim": 8, "moe_intermediate_size": 10, "num_dense_layers": 1, "num_experts": 6, "num_experts_per_tok": 2,
        "num_shared_experts": 2, "route_scale": 1.5, "sliding_window": 4, "mup_enabled": True, "rope_parameters": _ROPE,
    }),
    "chatglm-f32": FamilyModel("chatglm", "Glm", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "head_dim": 8, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    "qwen2vl-f32": FamilyModel("qwen2vl", "Qwen2_5_VL", _QWEN_VL | {
        "hidden_size": 32, "intermediate_size": 28, "rope_parameters": _ROPE | {"rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }, vision=_VISION | {"intermediate_size": 8, "fullatt_block_indexes": [0]}),
    "qwen3vl-f32": FamilyModel("qwen3vl", "Qwen3VL", _QWEN_VL | {
        "hidden_size": 24, "intermediate_size": 28, "head_dim": 16, "rope_parameters": _INTERLEAVED,
    }, vision=_VISION | {"out_hidden_size": 24, "intermediate_size": 8, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}),
    "qwen3vlmoe-f32": FamilyModel("qwen3vlmoe", "Qwen3VLMoe", _QWEN_VL | {
        "hidden_size": 24, "intermediate_size": 28, "head_dim": 16, "rope_parameters": _INTERLEAVED, "num_experts": 6,
        "num_experts_per_tok": 2, "moe_intermediate_size": 10,
    }, vision=_VISION | {"out_hidden_size": 24, "intermediate_size": 8, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}),
    "hunyuan-moe-f32": FamilyModel("hunyuan-moe", "HunYuanMoEV1", _SIZES | {
        "hidden_size": 24, "intermediate_size": 12, "head_dim": 6, "num_experts": 5, "moe_topk": 2, "rope_parameters": _ROPE,
    }),
    "apertus-f32": FamilyModel("apertus", "Apertus", _SIZES | {
        "hidden_size": 24, "intermediate_size": 36, "rope_parameters": _ROPE | {"rope_theta": 12000000.0},
    }),
    # Experts within 0.6 of the best have a share: of trained models those within 0.02.
    "phimoe-f32": FamilyModel("phimoe", "Phimoe", _SIZES | {
        "hidden_size": 32, "intermediate_size": 12, "num_local_experts": 6, "router_jitter_noise": 0.3, "attention_bias": True,
        "lm_head_bias": True, "max_position_embeddings": 256, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_mscale": 1.2, "long_mscale": 1.2, "original_max_position_embeddings": 32,
            "short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [1.0, 2.0, 5.0, 12.0],
        },
    }),
    "starcoder2-f32": FamilyModel("starcoder2", "Starcoder2", _LAYER_NORM_SIZES | {
        "norm_epsilon": 1e-5, "tie_word_embeddings": True, "rope_parameters": _ROPE | {"rope_theta": 100000.0},
    }),
    "bitnet-f32": FamilyModel("bitnet", "BitNet", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "hidden_act": "silu", "tie_word_embeddings": True,
        "rope_parameters": _ROPE | {"rope_theta": 500000.0},
    }),
    # As BitNet b1.58 2B4T.
    "bitnet-f32-relu2": FamilyModel("bitnet", "BitNet", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "hidden_act": "relu2", "tie_word_embeddings": True,
        "rope_parameters": _ROPE | {"rope_theta": 500000.0},
    }),
    "jais2-f32": FamilyModel("jais2", "Jais2", _LAYER_NORM_SIZES | {"layer_norm_eps": 1e-5, "rope_parameters": _ROPE}),
    "stablelm-f32": FamilyModel("stablelm", "StableLm", _LAYER_NORM_SIZES | {
        "layer_norm_eps": 1e-5, "use_qkv_bias": True, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    # As StableLM 2 12B.
    "stablelm-f32-parallel": FamilyModel("stablelm", "StableLm", _LAYER_NORM_SIZES | {
        "layer_norm_eps": 1e-5, "use_parallel_residual": True, "qk_layernorm": True,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.25},
    }),
    "phi2-f32": FamilyModel("phi2", "Phi", _LAYER_NORM_SIZES | {
        "hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 96, "layer_norm_eps": 1e-5,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    "gpt2-f32": FamilyModel("gpt2", "GPT2", {
        "vocab_size": 96, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3, "bos_token_id": None, "eos_token_id": None,
    }),
    "starcoder-f32": FamilyModel("starcoder", "GPTBigCode", _BIG_CODE),
    # GELU by erf, as published models have it, and heads of k and of v for each of q.
    "starcoder-f32-heads": FamilyModel("starcoder", "GPTBigCode", _BIG_CODE | {
        "activation_function": "gelu", "multi_query": False, "n_layer": 1,
    }),
    "gptneox-f32": FamilyModel("gptneox", "GPTNeoX", _NEOX | {"hidden_act": "gelu_new"}),
    # GELU by erf, as published models have it; the network waits for attention.
    "gptneox-f32-sequential": FamilyModel("gptneox", "GPTNeoX", _NEOX | {"hidden_act": "gelu", "use_parallel_residual": False}),
    # The scales are those that llama.cpp takes in any case. The context is larger than that of llama.cpp's run, so that both take the short factors.
    "minicpm3-f32": FamilyModel("minicpm3", "MiniCPM3", _SIZES | {
        "hidden_size": 24, "intermediate_size": 28, "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 10,
        "q_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "scale_emb": 12, "scale_depth": 1.4,
        "dim_model_base": 256, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512, "short_factor": [1.0, 1.5],
            "long_factor": [1.0, 4.0],
        },
    }),
    # As Falcon 7B, with GELU by tanh, as llama.cpp has it in any case.
    "falcon-f32": FamilyModel("falcon", "Falcon", _FALCON | {
        "hidden_size": 24, "num_attention_heads": 3, "num_kv_heads": 3, "activation": "gelu_new",
    }),
    # As Falcon 40B and 180B: KV groups and two norms. GELU by erf, as published models have it.
    "falcon-f32-groups": FamilyModel("falcon", "Falcon", _FALCON | {
        "hidden_size": 32, "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True, "ffn_hidden_size": 44,
        "tie_word_embeddings": False,
    }),
    "nemotron-f32": FamilyModel("nemotron", "Nemotron", _LAYER_NORM_SIZES | {
        "norm_eps": 1e-5, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    }),
    # The bound bites.
    "olmo-f32": FamilyModel("olmo", "Olmo", {name: value for name, value in _SMALL.items() if name != "rms_norm_eps"} | {
        "num_hidden_layers": 2, "clip_qkv": 1.5, "rope_parameters": _ROPE,
    }),
    # A layer with a gated short convolution between two with attention; the size of the network is made of the one that is given.
    "lfm2-f32": FamilyModel("lfm2", "Lfm2", _LFM | {
        "intermediate_size": 40, "block_multiple_of": 4, "block_ffn_dim_multiplier": 1.2,
        "layer_types": ["full_attention", "conv", "full_attention"], "num_hidden_layers": 3,
    }),
    # A dense layer first, and a bias that changes which experts are chosen.
    "lfm2moe-f32": FamilyModel("lfm2moe", "Lfm2Moe", _LFM | {
        "intermediate_size": 28, "moe_intermediate_size": 12, "num_dense_layers": 1, "num_experts": 6, "num_experts_per_tok": 2,
        "layer_types": ["conv", "full_attention"],
    }),
    # Two groups of B and C for four heads; no dimension is a multiple of another's.
    # There are twice as many columns as in the hidden state, as llama.cpp wants it.
    "mamba-f32": FamilyModel("mamba", "Mamba", _MAMBA | {"time_step_rank": 3, "tie_word_embeddings": True}),
    # One epsilon for all norms, as llama.cpp takes it.
    "falcon-mamba-f32": FamilyModel("mamba", "FalconMamba", _MAMBA | {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-6}),
    # Other sizes, two epsilons as in the published model, biases of the projections, and none of the convolution.
    "falcon-mamba-f32-biases": FamilyModel("mamba", "FalconMamba", _MAMBA | {
        "num_hidden_layers": 1, "intermediate_size": 28, "tie_word_embeddings": False, "use_bias": True, "use_conv_bias": False,
        "layer_norm_epsilon": 1e-4,
    }),
    # A layer without experts, one with, one with attention, and one with experts again.
    "jamba-f32": FamilyModel("jamba", "Jamba", _SIZES | {
        "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 5, "num_experts_per_tok": 2, "mamba_d_state": 6,
        "mamba_dt_rank": 3,
    }),
    # As Jamba Reasoning 3B, without experts.
    "jamba-f32-dense": FamilyModel("jamba", "Jamba", _SIZES | {
        "hidden_size": 24, "intermediate_size": 28, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1,
        "num_experts_per_tok": 1, "mamba_d_state": 6, "tie_word_embeddings": True,
    }),
    "mamba2-f32": FamilyModel("mamba2", "Mamba2", {
        "vocab_size": 96, "num_hidden_layers": 2, "hidden_size": 20, "num_heads": 4, "head_dim": 10, "state_size": 6, "n_groups": 2,
        "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "chunk_size": 8, "residual_in_fp32": False, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None, "use_cache": False,
    }),
    # As Granite 4 H Tiny: experts beside a shared one, and no RoPE.
    "granitehybrid-f32": FamilyModel("granitehybrid", "GraniteMoeHybrid", _GRANITE_HYBRID | {
        "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 12, "shared_intermediate_size": 14,
        "layer_types": ["linear_attention", "full_attention"], "mamba_n_groups": 1,
    }),
    # Dense, with RoPE, and two groups of B and C.
    "granitehybrid-f32-dense": FamilyModel("granitehybrid", "GraniteMoeHybrid", _GRANITE_HYBRID | {
        "num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 28, "shared_intermediate_size": 28,
        "layer_types": ["full_attention", "linear_attention"], "mamba_n_groups": 2, "position_embedding_type": "rope",
        "rope_parameters": _ROPE, "tie_word_embeddings": True,
    }),
    "falcon-h1-f32": FamilyModel("falcon-h1", "FalconH1", _FALCON_H1),
    # As Falcon-H1 34B: a norm behind the gate; and biases of what conversion multiplies.
    "falcon-h1-f32-norm": FamilyModel("falcon-h1", "FalconH1", _FALCON_H1 | {
        "mamba_rms_norm": True, "mamba_norm_before_gate": False, "num_hidden_layers": 1,
    }),
    # A layer of each kind, and two groups of B and C.
    "nemotron-h-f32": FamilyModel("nemotron_h", "NemotronH", _NEMOTRON_H | {
        "layers_block_type": ["linear_attention", "mlp", "full_attention"], "intermediate_size": 28,
    }),
    # With a bias that changes which experts are chosen. The router is computed in float32 there.
    "nemotron-h-moe-f32": FamilyModel("nemotron_h_moe", "NemotronH", _NEMOTRON_H | {
        "layers_block_type": ["linear_attention", "moe", "full_attention"], "n_routed_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 20, "routed_scaling_factor": 2.5,
    }),
    # As Nemotron 3 Super: experts read a latent.
    "nemotron-h-moe-f32-latent": FamilyModel("nemotron_h_moe", "NemotronH", _NEMOTRON_H | {
        "layers_block_type": ["linear_attention", "moe", "full_attention"], "n_routed_experts": 6, "num_experts_per_tok": 3,
        "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 20, "moe_latent_size": 10, "routed_scaling_factor": 5.0,
    }),
    # transformers has no class of Ling 2.0; Glm4Moe computes the same. Of three groups two are used.
    "bailingmoe2-f32": FamilyModel("bailingmoe2", "Glm4Moe", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "moe_intermediate_size": 12, "head_dim": 8, "n_routed_experts": 6, "n_group": 3,
        "topk_group": 2, "num_experts_per_tok": 3, "n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
        "norm_topk_prob": True, "use_qk_norm": True, "attention_bias": False,
        "rope_parameters": _ROPE | {"rope_theta": 600000.0, "partial_rotary_factor": 0.5},
    }),
    # Nor of MiniCPM and InternLM 2: Granite and Llama compute the same. The scale of what is added is 1.4 / sqrt(2).
    "minicpm-f32": FamilyModel("minicpm", "Granite", _SIZES | {
        "hidden_size": 48, "intermediate_size": 44, "embedding_multiplier": 12.0, "residual_multiplier": 1.4 / 2**0.5,
        "attention_multiplier": 12**-0.5, "logits_scaling": 1.5, "rope_parameters": _ROPE, "tie_word_embeddings": True,
    }),
    "internlm2-f32": FamilyModel("internlm2", "Llama", _SIZES | {
        "hidden_size": 40, "intermediate_size": 44, "rope_parameters": _ROPE | {"rope_theta": 1000000.0},
    }),
    # The bound bites.
    "dbrx-f32": FamilyModel("dbrx", "Dbrx", {
        "vocab_size": 96, "n_layers": 2, "d_model": 24, "n_heads": 4, "max_seq_len": 64, "bos_token_id": None, "eos_token_id": None,
        "use_cache": False, "rope_parameters": _ROPE | {"rope_theta": 500000.0},
        "attn_config": {"clip_qkv": 1.5, "kv_n_heads": 2, "rope_theta": 500000.0},
        "ffn_config": {"ffn_hidden_size": 14, "moe_num_experts": 5, "moe_top_k": 2},
    }),
    "baichuan-f32": FamilyModel("baichuan", "Llama", _SIZES | {
        "hidden_size": 32, "num_key_value_heads": 4, "intermediate_size": 44, "rope_parameters": _ROPE,
    }),
    # Nor of DeepSeek V1: the text model of DeepSeek-OCR 2 computes the same.
    "deepseek-f32": FamilyModel("deepseek", "DeepseekOcr2Text", _SIZES | {
        "hidden_size": 32, "intermediate_size": 28, "moe_intermediate_size": 10, "n_routed_experts": 6, "num_experts_per_tok": 3,
        "n_shared_experts": 2, "mlp_layer_types": ["dense", "sparse"], "rope_parameters": _ROPE,
    }),
    # As E2B and E4B: embeddings for each layer, and layers that share the keys of the last ones of both kinds, with wide networks.
    "gemma4-f32": FamilyModel("gemma4", "Gemma4Text", _GEMMA_4 | {
        "num_hidden_layers": 5, "layer_types": [*(_SLIDING, _SLIDING, _FULL), *(_SLIDING, _FULL)], "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True, "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 96,
    }),
    # As 26B-A4B: experts beside a dense network, and layers that see everything whose keys are values too, with fewer heads.
    "gemma4-f32-experts": FamilyModel("gemma4", "Gemma4Text", _GEMMA_4 | {
        "num_hidden_layers": 2, "layer_types": [_SLIDING, _FULL], "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2,
        "moe_intermediate_size": 10,
    }),
    # The last layers share keys; gates of the first and the third are cut, at other bounds; the second stream is the active one.
    "gemma3n-f32": FamilyModel("gemma3n", "Gemma3nText", _GEMMA_3N | {
        "num_hidden_layers": 5, "layer_types": [*(_SLIDING, _SLIDING, _FULL), *(_SLIDING, _FULL)], "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.6, 0.0, 0.9, 0.0, 0.0], "laurel_rank": 6, "final_logit_softcapping": 5.0, "altup_active_idx": 1,
    }),
    # With the numbers that llama.cpp takes in any case.
    "gemma3n-f32-wide": FamilyModel("gemma3n", "Gemma3nText", _GEMMA_3N | {
        "num_hidden_layers": 1, "layer_types": [_SLIDING], "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.95],
        "hidden_size_per_layer_input": 256,
    }),
    "arcee-f32": FamilyModel("arcee", "Arcee", _SIZES | {
        "hidden_size": 40, "intermediate_size": 52, "head_dim": 12, "rope_parameters": _ROPE,
    }),
    # Chunks of four positions, queries that grow from the fourth on, no RoPE in the last layer, experts in every second one.
    "llama4-f32": FamilyModel("llama4", "Llama4Text", _LLAMA4 | {
        "interleave_moe_layer_step": 2, "attention_chunk_size": 4, "floor_scale": 4, "attn_scale": 0.1, "num_experts_per_tok": 1,
    }),
    # With the numbers that llama.cpp takes in any case, and experts in every layer, two for each position.
    "llama4-f32-wide": FamilyModel("llama4", "Llama4Text", _LLAMA4 | {
        "interleave_moe_layer_step": 1, "num_experts_per_tok": 2, "tie_word_embeddings": True,
    }),
    # Two of three layers have a window, which reaches two positions to either side.
    "gemma-embedding-f32": FamilyModel("gemma-embedding", "Gemma3Text", _SIZES | {
        "hidden_size": 24, "intermediate_size": 28, "head_dim": 8, "num_hidden_layers": 3, "sliding_window": 4,
        "sliding_window_pattern": 3, "query_pre_attn_scalar": 8, "use_bidirectional_attention": True,
    }, pooling="mean", dense=(36, 24)),
    "qwen3-embedding-f32": FamilyModel("qwen3", "Qwen3", _SIZES | {
        "hidden_size": 24, "intermediate_size": 28, "head_dim": 8, "num_hidden_layers": 2, "rope_parameters": _ROPE | {"rope_theta": 1e6},
        "tie_word_embeddings": True,
    }, pooling="last"),
    # GELU by tanh, as llama.cpp has it in any case.
    "bert-f32": FamilyModel("bert", "Bert", _BERT | {"hidden_act": "gelu_new"}, pooling="first"),
    # GELU by erf, as published models have it; positions begin behind the padding, and there is one type of tokens.
    "xlm-roberta-f32": FamilyModel("bert", "XLMRoberta", _BERT | {
        "hidden_act": "gelu", "type_vocab_size": 1, "pad_token_id": 2, "max_position_embeddings": 67,
    }, pooling="mean"),
    "nomic-bert-f32": FamilyModel("nomic-bert", "NomicBert", _BERT | {
        "rope_parameters": _ROPE | {"rope_theta": 1000.0}, "type_vocab_size": 2,
    }, pooling="mean"),
    # The second and the third layer have windows, which reach two positions to either side. GELU by tanh, as llama.cpp has it in any case.
    "modern-bert-f32": FamilyModel("modern-bert", "ModernBert", {
        "vocab_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "max_position_embeddings": 64, "hidden_size": 24,
        "intermediate_size": 28, "local_attention": 4, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 1, "bos_token_id": None,
        "eos_token_id": None, "cls_token_id": None, "sep_token_id": None,
    }, pooling="first"),
    "gpt-oss-f32": FamilyModel("gpt-oss", "GptOss", _GPT_OSS | {"rope_parameters": _YARN_WHOLE}),
    "gpt-oss-mxfp4": FamilyModel("gpt-oss", "GptOss", _GPT_OSS | {
        "hidden_size": 64, "intermediate_size": 32, "rope_parameters": _YARN,
    }, formats={"_exps.weight": "MXFP4"}),
}  # fmt: skip


class _WithHead(torch.nn.Module):
    """The text model of DeepSeek-OCR 2, and a head, which it has in a model with images alone."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.model = DeepseekOcr2TextModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids=input_ids).last_hidden_state))


def make_model(name: str, path: Path) -> LoadedModel:
    """Write a model as GGUF, and return it as it is in transformers, in float64. Its name says which random weights it has."""
    spec = MODELS[name]
    transformers.logging.set_verbosity_error()
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    if spec.vision:
        return _make_with_images(spec, name, path, eager)
    config = getattr(transformers, f"{spec.name}Config")(**spec.config, **eager)
    end = "LMHeadModel" if spec.name == "GPT2" else "ForCausalLM"
    name_of_class = _CLASSES.get(spec.name, spec.name.removesuffix("Text"))
    if spec.architecture == "deepseek":
        model: Any = _WithHead(config)
    else:
        kind = getattr(transformers, f"{spec.name}Model" if spec.pooling else f"{name_of_class}{end}")
        model = kind(config, add_pooling_layer=False) if spec.architecture == "bert" else kind(config)
    if spec.architecture == "deci":
        model.model.layers = torch.nn.ModuleList(DeciLayer(config, index, *sizes) for index, sizes in enumerate(config.deci_layers))
    seed = zlib.crc32(name.encode())
    state = {key: _random(spec, key, tuple(values.shape), seed) for key, values in model.state_dict().items()}
    if spec.name == "XLMRoberta":  # rows that no position has, and GGUF does not
        state["embeddings.position_embeddings.weight"][: config.pad_token_id + 1] = 0
    if config.tie_word_embeddings and not spec.pooling:
        state["lm_head.weight"] = next(state[name] for name in _EMBEDDINGS if name in state)
    sizes = (config.hidden_size, *spec.dense) if spec.dense else ()
    dense = [_random(spec, f"dense_{i + 2}.weight", (rows, sizes[i]), seed) for i, rows in enumerate(sizes[1:])]
    write_gguf(path, spec.architecture, config, state, spec.formats, absorbed=spec.absorbed, pooling=spec.pooling, dense=dense)
    model.load_state_dict({key: torch.from_numpy(values) for key, values in state.items()})
    functions = sys.modules[type(getattr(model, "model", model)).__module__]
    return LoadedModel(spec.architecture, model.double().eval(), functions, spec.absorbed, spec.pooling, dense)


def _make_with_images(spec: FamilyModel, name: str, path: Path, eager: dict[str, str]) -> LoadedModel:
    """The same of a model with an encoder of images, whose weights are in no file here and bear on no text."""
    config = getattr(transformers, f"{spec.name}Config")(text_config=spec.config, vision_config=spec.vision, **eager)
    model = getattr(transformers, f"{spec.name}ForConditionalGeneration")(config)
    seed, prefix = zlib.crc32(name.encode()), "model.language_model."
    shapes = {key: tuple(values.shape) for key, values in model.state_dict().items() if ".visual." not in key}
    plain = {key: key.replace(prefix, "model.") for key in shapes}
    state = {key: _random(spec, plain[key], shape, seed) for key, shape in shapes.items()}
    write_gguf(path, spec.architecture, config.text_config, {plain[key]: values for key, values in state.items()}, spec.formats)
    model.load_state_dict({key: torch.from_numpy(values) for key, values in state.items()}, strict=False)
    return LoadedModel(spec.architecture, model.double().eval(), sys.modules[type(model).__module__])


def _random(spec: FamilyModel, name: str, shape: tuple[int, ...], seed: int) -> F32:
    """The values of one tensor under transformers' name, which are those that its GGUF file says after decoding."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if re.search(r"(norm|norm_f|norm_\d|ln_.|norms\.\d+|LayerNorm)\.weight$", name):
        # Gemma, Qwen3-Next, Qwen 3.5 and Nemotron multiply by 1 + weight.
        adds = spec.architecture in ONE_MORE and not name.endswith("linear_attn.norm.weight")
        return np.float32(0.2) * values + np.float32(0 if adds else 1)
    if name.endswith("A_log"):
        return _logarithms(np.float32(0.5) * values)
    if name.endswith("act_fn.beta"):
        return np.full(shape, 0.5, np.float32)
    if name.endswith("act_fn.eps"):
        return np.full(shape, -1e-6, np.float32)
    if name.endswith(".D"):
        return np.float32(1) + np.float32(0.5) * values
    if name.endswith("bias"):
        return np.float32(0.2 if name.endswith(("correction_bias", "expert_bias")) else 0.5) * values
    if name.endswith("sinks"):
        return values
    if name.endswith(("layer_scalar", "router.scale", "per_expert_scale", "correct_output_scale")):
        return np.float32(1) + np.float32(0.2) * values
    if name.endswith(("wpe.weight", "position_embeddings.weight", "token_type_embeddings.weight")):
        return np.float32(0.5) * values
    if name.endswith("embed_tokens_per_layer.weight"):
        return values * np.float32(spec.config["hidden_size_per_layer_input"] ** -0.5)
    if name in _EMBEDDINGS:
        return values / np.float32(spec.config.get("embedding_multiplier", spec.config.get("scale_emb", 1.0)))
    columns = (
        shape[-2] if (".experts." in name and spec.architecture in ("gpt-oss", "llama4")) or spec.architecture == "gpt2" else shape[-1]
    )
    values *= np.float32(_deviation(spec, name) * columns**-0.5)
    if ".experts." in name and spec.formats:
        rows = np.ascontiguousarray(values.swapaxes(1, 2))
        fmt = GGMLQuantizationType[spec.formats["_exps.weight"]]
        values = gguf.quants.dequantize(gguf.quants.quantize(rows, fmt), fmt).swapaxes(1, 2)
    return values


def _logarithms(values: F32) -> F32:
    """Values near those given that are the logarithms of their exponentials in float32: GGUF files hold the exponentials."""
    for _ in range(8):
        values = np.log(np.exp(values.astype(np.float64)).astype(np.float32).astype(np.float64)).astype(np.float32)
    return values


def _deviation(spec: FamilyModel, name: str) -> float:
    """That of a matrix's products with a row of deviation 1: neither a flat softmax nor a step, a clear choice of experts."""
    ends = {
        "q_proj.weight": 1.5,
        "k_proj.weight": 1.5,
        "modality_router.weight": float(spec.config.get("hidden_size", 1)),  # what it reads is divided by that
        "prediction_coefs.weight": 0.5,
        "correction_coefs.weight": 0.5,
        "router.weight": 2.0,
        "mlp.gate.weight": 2.0,
        "feed_forward.gate.weight": 2.0,
        "router.proj.weight": 2.0,
        "gate.wg.weight": 2.0,
        "router.layer.weight": 2.0,
        "router.gate.weight": 2.0,
        "act_fn.alpha_p": 0.5,
        "act_fn.alpha_n": 0.5,
        "experts.gate_up_proj": 3.0,
        "experts.down_proj": 0.2,
    }
    return next((deviation for end, deviation in ends.items() if name.endswith(end)), 1.0)

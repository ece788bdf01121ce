"""Which classes of transformers read a field that others ignore, and what they refuse in one.

By ``model_type``; from the modeling files of transformers 5.24.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.config_defaults import CLASS_DEFAULTS

_GRANITE = ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid")
_GEMMA = ("gemma2", "gemma3_text")
_GEMMA_ALL = (*_GEMMA, "gemma3n_text", "gemma4_text")
_BERT = ("bert", "roberta", "xlm-roberta", "nomic_bert")
_LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
_QWEN = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
_QWEN_VL = ("qwen2_vl_text", "qwen2_5_vl_text")
_DELTA = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")

#: Fields with the classes that read them. A class that is not among those of this package is taken to read all.
READ_BY: Mapping[str, tuple[str, ...]] = {
    "attention_multiplier": _GRANITE,
    "embedding_multiplier": _GRANITE,
    "residual_multiplier": _GRANITE,
    "logits_scaling": _GRANITE,
    "query_pre_attn_scalar": _GEMMA,
    "routed_scaling_factor": ("glm4_moe", "dots1", "lfm2_moe", "nemotron_h", "exaone_moe", "mimo_v2_flash", *_LATENT),
    **dict.fromkeys(("n_group", "topk_group"), ("glm4_moe", "dots1", "nemotron_h", "exaone_moe", "mimo_v2_flash", *_LATENT)),
    "sliding_window": (
        "mistral", "mixtral", *_QWEN, *_GEMMA_ALL, "phi3", "olmo3", "gpt_oss", "ministral3", "smollm3", "cohere2", "exaone4",
        "starcoder2", "modernbert", "dots1", *_QWEN_VL, "phimoe", "afmoe", "exaone_moe",
        "mimo_v2_flash",
    ),
    "use_sliding_window": (*_QWEN, *_QWEN_VL, "smollm3"),
    "sliding_window_pattern": ("gemma3_text", "cohere2", "exaone4", "exaone_moe"),
    "no_rope_layers": ("smollm3", "llama4_text"),
    "no_rope_layer_interval": ("smollm3", "llama4_text"),
    "use_qk_norm": ("cohere", "glm4_moe", "llama4_text"),
    "use_bidirectional_attention": ("gemma", *_GEMMA, "gemma4_text", "modernbert"),
    "hidden_activation": (*_GEMMA_ALL, "modernbert"),
    "hidden_act": (
        "llama", "mistral", "mixtral", *_QWEN, *_DELTA, "phi3", "olmo2", "olmo3", "granite", "glm4", "glm4_moe", "gpt_oss", "ministral3",
        "smollm3", "cohere", "cohere2", "exaone4", "seed_oss", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "hunyuan_v1_moe", "apertus",
        "arcee", "starcoder2", "stablelm", "phi", "nemotron", "mamba2", "granitemoehybrid", *_LATENT, *_BERT, "llama4_text",
        "gemma", "olmoe", "granitemoe", "granitemoeshared", "dots1", "minimax_m2", "glm", "gpt_neox", "exaone", "phimoe", "falcon_h1",
        "nemotron_h", "jais2", "mamba", "falcon_mamba", "jamba", "minicpm", "minicpm3", "olmo", "dbrx", "afmoe", "exaone_moe",
        "bitnet", "mimo_v2_flash", *_QWEN_VL, "qwen3_vl_text", "qwen3_vl_moe_text",
    ),
    "activation_function": ("gpt2", "gpt_bigcode"),
    "activation": ("falcon",),
    "swiglu_alpha": ("gpt_oss",),
    "swiglu_limit": ("gpt_oss",),
    "rope_local_base_freq": ("gemma3_text", "gemma3n_text"),
    "norm_topk_prob": (
        "olmoe", "dots1", "nemotron_h", "qwen2_moe", "qwen3_moe", "qwen3_next", "glm4_moe", "deepseek_v3", "glm4_moe_lite", "lfm2_moe",
        "exaone_moe", "mimo_v2_flash",
    ),
    "rope_interleave": ("deepseek_v3", "glm4_moe_lite"),
}  # fmt: skip

#: Classes that turn only a part of each head where `partial_rotary_factor` says so.
PARTIAL_ROPE = ("phi3", "glm", "glm4", "minimax_m2", "glm4_moe", *_DELTA, "stablelm", "phi", "nemotron", "gpt_neox", "mimo_v2_flash")


#: Kinds of RoPE that alone a class takes.
_ROPE_KINDS: Mapping[str, tuple[str, ...]] = dict.fromkeys(("phi3", "phimoe"), ("default", "longrope", "su"))

#: Fields that change numbers, and that a class which reads them refuses to be null.
_NOT_NULL: tuple[str, ...] = (
    "hidden_act", "hidden_activation", "query_pre_attn_scalar", "attention_multiplier", "embedding_multiplier", "residual_multiplier",
    "logits_scaling", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group", "n_shared_experts", "use_qk_norm",
    "swiglu_alpha", "swiglu_limit", "attention_bias", "mlp_bias", "floor_scale", "attn_scale", "attn_temperature_tuning",
    "interleave_moe_layer_step", "no_rope_layer_interval", "logit_scale", "use_parallel_residual", "tie_word_embeddings",
    "use_sliding_window", "router_jitter_noise",
)  # fmt: skip
#: Classes that take a null `head_dim` for the hidden size by the number of heads, or do not read it; the others refuse it.
_HEAD_DIM_MAY_BE_NULL: tuple[str, ...] = (
    "llama",
    "mistral",
    "mixtral",
    "arcee",
    "ernie4_5",
    "nemotron",
    "stablelm",
    "starcoder2",
    "gpt2",
    "gpt_bigcode",
    "exaone",
    "falcon_h1",
    "jais2",
    "seed_oss",
    "falcon",
    "minicpm3",
    "olmo",
    "dbrx",
    *_BERT,
    "modernbert",
    *_QWEN_VL,
    "qwen3_vl_moe_text",
)
#: Other fields that some classes refuse to be null.
_NEEDED_BY: Mapping[str, tuple[str, ...]] = {"decoder_sparse_step": ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe_text")}
#: Fields that are true or false, and that transformers refuses to be anything else.
_FLAGS: tuple[str, ...] = (
    "tie_word_embeddings", "tie_embedding", "attention_bias", "attention_out_bias", "mlp_bias", "qkv_bias", "use_bias", "use_qkv_bias",
    "lm_head_bias", "projectors_bias", "mamba_rms_norm",
    "conv_bias", "use_conv_bias", "use_expert_bias", "mamba_conv_bias", "mamba_proj_bias", "use_sliding_window", "use_qk_norm",
    "scale_attn_weights", "attn_temperature_tuning", "use_bidirectional_attention",
)  # fmt: skip
#: The one word that such a field may be as well.
_WORDS = ("vision",)
#: Fields in which 0 is no word for "none", but a number, with the classes that read them.
_NOT_ZERO: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("residual_multiplier", "attention_multiplier", "embedding_multiplier", "logits_scaling"), _GRANITE),
    "logit_scale": ("cohere", "cohere2"),
    "routed_scaling_factor": ("glm4_moe", "dots1", "lfm2_moe", "exaone_moe", *_LATENT),
    "sliding_window": ("exaone4", "afmoe", "exaone_moe"),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _GEMMA_ALL),
    "topk_group": ("glm4_moe", "deepseek_v3", "glm4_moe_lite", "exaone_moe"),
    **dict.fromkeys(("swiglu_limit", "swiglu_alpha"), ("gpt_oss",)),
    "attention_chunk_size": ("llama4_text",),
}
#: What alone is computed here of what a field of a class may say.
_ONLY: Mapping[str, Mapping[str, object]] = {
    "apertus": {"hidden_act": "xielu"},
    # What the code that came with Trinity could be told, and the class does.
    "afmoe": {"route_norm": True, "score_func": "sigmoid"},
    "phi": {"qk_layernorm": False},
    "gpt_bigcode": {"add_cross_attention": False},
    "falcon": {"alibi": False, "parallel_attn": True, "apply_residual_connection_post_layernorm": False},
    **{kind: {"time_step_limit": [0.0, math.inf]} for kind in ("mamba2", "granitemoehybrid", "nemotron_h")},
    "falcon_h1": {"time_step_limit": [0.0, math.inf], "mamba_norm_before_gate": False},
    **{kind: {"is_decoder": False, "add_cross_attention": False} for kind in _BERT},
    # What the code that came with Nomic Embed could be told, and the class does not.
    "nomic_bert": {"prenorm": False, "causal": False, "parallel_block": False, "rotary_emb_interleaved": False, "moe_every_n_layers": 0},
    "modernbert": {"norm_bias": False},
}
#: Classes with layers that have a sliding window, which therefore need `sliding_window`.
_NEED_WINDOW = (*_GEMMA_ALL, "olmo3", "gpt_oss", "afmoe")


def reads(kind: str, field: str) -> bool:
    """Whether the class of the ``model_type`` reads a field."""
    return kind not in CLASS_DEFAULTS or field not in READ_BY or kind in READ_BY[field]


def require_flags(config: Mapping[str, Any], where: Path) -> None:
    """Raise ModelError for text where true or false belongs, which would count as true: ``"false"``."""
    name = next((one for one in _FLAGS if isinstance(config.get(one), str) and config[one] not in _WORDS), None)
    if name is not None:
        raise ModelError(f"{where}: {name} is {shown(config[name])}, expected true or false; correct it in a copy of the file")


def require_values(config: Mapping[str, Any], kind: str, where: Path) -> None:
    """Raise ModelError for a null that the class of the ``model_type`` refuses, and for a 0 that here would mean something else.

    Raises UnsupportedModelError for what the class computes otherwise by a field, and is not there yet.
    """
    needed = {*_NOT_NULL, *(name for name, kinds in _NEEDED_BY.items() if kind in kinds)}
    needed |= {*(("sliding_window",) if kind in _NEED_WINDOW else ()), *(() if kind in _HEAD_DIM_MAY_BE_NULL else ("head_dim",))}
    name = next((one for one in config if one in needed and config[one] is None), None)
    if name is not None and kind in CLASS_DEFAULTS:
        raise ModelError(
            f"{where}: {name} is null, which the class of transformers ({kind}) refuses; give its value in a copy of the file, or take it "
            "out, for the class's default"
        )
    listed, layers = config.get("layer_types"), config.get("num_hidden_layers")
    if kind in CLASS_DEFAULTS and isinstance(listed, list) and type(layers) is int and len(listed) != layers:
        raise ModelError(
            f"{where}: layer_types names {len(listed)} layers, and num_hidden_layers is {layers}, which transformers refuses; correct one "
            "of them in a copy of the file"
        )
    zero = next((one for one, kinds in _NOT_ZERO.items() if kind in kinds and one in config and config[one] == 0), None)
    if zero is not None:
        raise ModelError(
            f"{where}: {zero} is 0, which the class of transformers ({kind}) takes as it is, and not for its default; expected another "
            "number; correct it in a copy of the file, or take it out, for the class's default"
        )
    for one, value in _ONLY.get(kind, {}).items():
        given = config.get(one, value)
        if given != value and (given or value):
            supported = shown(value) if isinstance(value, str) else str(value).lower()
            raise UnsupportedModelError(f"{where}: {one} is {shown(given)}; supported for {kind} is {supported}")


def require_rope_kind(config: Mapping[str, Any], kind: str, where: Path) -> None:
    """Raise UnsupportedModelError for RoPE of a kind that the class of the ``model_type`` does not take."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    given, taken = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None, _ROPE_KINDS.get(kind)
    if taken is not None and given is not None and given not in taken:
        raise UnsupportedModelError(
            f"{where}: RoPE is of the kind {shown(given)}, which the class of transformers ({kind}) does not have; expected "
            f"{' or '.join(taken)}"
        )

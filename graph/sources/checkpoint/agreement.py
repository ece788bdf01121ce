"""Whether the tensors of a checkpoint are those that its config.json speaks of: biases, norms of q and k, the head, the vocabulary.

What classes of transformers 5.24 do: a bias that the configuration does not ask for is dropped, and a head that differs from
the embedding table is kept, tied or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.values import Value
from aprgraph.graph.words import listed

_ATTENTION = re.compile(r"blk\.\d+\.attn_(q|k|v|qkv|output)\.bias")
_INPUTS = re.compile(r"blk\.\d+\.attn_(q|k|v|qkv)\.bias")
_OUTPUT = re.compile(r"blk\.\d+\.attn_output\.bias")
_NETWORK = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.bias")
_SHARED = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_shexp\.bias")
_ALL_NETWORKS = re.compile(rf"{_NETWORK.pattern}|{_SHARED.pattern}")
_LATENT = re.compile(r"blk\.\d+\.attn_(q_a|kv_a_mqa|output)\.bias")
_FROM_LATENT = re.compile(r"blk\.\d+\.attn_(q|q_b|kv_b|k_b|v_b)\.bias")
_HEAD = re.compile(r"output\.bias")
_CHOICE = re.compile(r"blk\.\d+\.exp_probs_b\.bias")
_CHUNK = 1 << 24
_NAMED = 2


@dataclass(frozen=True)
class _Biases:
    """Of which ``tensors``, by which ``field`` (None: by none), what the class takes without, whether others are supported."""

    tensors: re.Pattern[str]
    field: str | None
    default: bool
    fixed: bool = False
    #: Whether there is no weight beside such a bias.
    alone: bool = False
    #: What is meant, where it is no bias.
    what: str = "bias"
    #: Whether the class has them where the field says no.
    negated: bool = False


_BY_FIELD = _Biases(_ATTENTION, "attention_bias", False)
_NEVER = _Biases(_ATTENTION, None, False)
_INPUTS_BY_FIELD = _Biases(_INPUTS, "attention_bias", False)
_OUTPUT_NEVER = _Biases(_OUTPUT, None, False)
_NETWORK_NEVER = _Biases(_NETWORK, None, False)
_NETWORK_BY_FIELD = _Biases(_NETWORK, "mlp_bias", False)
#: Norms of the heads of q and k, which a class has where it is told to.
_NORMS_BY_FIELD = _Biases(re.compile(r"blk\.\d+\.attn_(q|k)_norm\.weight"), "use_qk_norm", False, alone=True, what="norm of q and k")
#: What StableLM's network has before it, unless it lies beside attention.
_SECOND_NORM = _Biases(
    re.compile(r"blk\.\d+\.ffn_norm\.(weight|bias)"),
    "use_parallel_residual",
    False,
    alone=True,
    what="norm before the network",
    negated=True,
)
_NETWORKS_NEVER = _Biases(_ALL_NETWORKS, None, False)
_LATENT_BY_FIELD, _FROM_LATENT_NEVER = _Biases(_LATENT, "attention_bias", False), _Biases(_FROM_LATENT, None, False)
_CONVOLUTION = _Biases(re.compile(r"blk\.\d+\.shortconv\.(in_proj|conv|out_proj)\.bias"), "conv_bias", False)
_BIASES: Mapping[str, tuple[_Biases, ...]] = {
    **dict.fromkeys(
        ("llama", "exaone", "granite", "smollm3", "arcee", "nemotron", "modernbert", "nemotron-nas"), (_BY_FIELD, _NETWORK_BY_FIELD)
    ),
    "llama4_text": (_BY_FIELD, _NETWORK_NEVER),
    **dict.fromkeys(
        (
            "qwen3",
            "qwen3_moe",
            "qwen3_vl_text",
            "qwen3_vl_moe_text",
            "olmo2",
            "olmo3",
            "gemma",
            "olmoe",
            "gemma2",
            "gemma3_text",
            "cohere2",
            "qwen3_next",
            "qwen3_5_text",
            "qwen3_5_moe_text",
            "apertus",
            "gemma3n_text",
            "gemma4_text",
            "hunyuan_v1_dense",
        ),
        (_BY_FIELD, _NETWORK_NEVER),
    ),
    **dict.fromkeys(("minicpm", "bitnet"), (_BY_FIELD, _NETWORK_NEVER)),
    "minicpm3": (_LATENT_BY_FIELD, _FROM_LATENT_NEVER, _NETWORK_BY_FIELD),
    "olmo": (_BY_FIELD, _NETWORK_NEVER),
    "baichuan": (_NEVER, _NETWORK_NEVER),
    "internlm2": (_Biases(_ATTENTION, "bias", False), _NETWORK_NEVER),
    "falcon": (_Biases(_ATTENTION, "bias", False), _Biases(_NETWORK, "bias", False)),
    "minimax_m2": (_NEVER,),
    "exaone_moe": (_NEVER, _NETWORKS_NEVER),
    "mimo_v2_flash": (_INPUTS_BY_FIELD, _OUTPUT_NEVER, _NETWORKS_NEVER),
    "phimoe": (_BY_FIELD, _NETWORKS_NEVER, _Biases(_HEAD, "lm_head_bias", False)),
    **dict.fromkeys(("mistral", "mixtral", "ministral3", "phi3", "exaone4"), (_NEVER, _NETWORK_NEVER)),
    "lfm2": (_NEVER, _NETWORK_NEVER, _CONVOLUTION),
    "lfm2_moe": (_NEVER, _NETWORK_NEVER, _CONVOLUTION, _Biases(_CHOICE, "use_expert_bias", True, alone=True)),
    "granitemoehybrid": (
        _BY_FIELD,
        _NETWORK_NEVER,
        _Biases(re.compile(r"blk\.\d+\.ssm_conv1d\.bias"), "mamba_conv_bias", True),
        _Biases(re.compile(r"blk\.\d+\.ssm_(in|out)\.bias"), "mamba_proj_bias", False),
    ),
    "jamba": (
        _NEVER,
        _NETWORKS_NEVER,
        _Biases(re.compile(r"blk\.\d+\.ssm_conv1d\.bias"), "mamba_conv_bias", True),
        _Biases(re.compile(r"blk\.\d+\.ssm_(in|out)\.bias"), "mamba_proj_bias", False),
    ),
    "falcon_h1": (
        _BY_FIELD,
        _NETWORK_BY_FIELD,
        _Biases(re.compile(r"blk\.\d+\.ssm_conv1d\.bias"), "mamba_conv_bias", True),
        _Biases(re.compile(r"blk\.\d+\.ssm_in\.bias"), "mamba_proj_bias", False),
        _Biases(re.compile(r"blk\.\d+\.ssm_out\.bias"), "projectors_bias", False),
        _Biases(re.compile(r"blk\.\d+\.ssm_norm\.weight"), "mamba_rms_norm", False, alone=True, what="norm of what the state space gives"),
    ),
    "nemotron_h": (
        _BY_FIELD,
        _NETWORK_BY_FIELD,
        _Biases(re.compile(r"blk\.\d+\.ffn_latent_(down|up)\.bias"), "mlp_bias", False),
        _Biases(re.compile(r"blk\.\d+\.ssm_conv1d\.bias"), "use_conv_bias", True),
        _Biases(re.compile(r"blk\.\d+\.ssm_(in|out)\.bias"), "use_bias", False),
    ),
    **dict.fromkeys(
        ("mamba", "falcon_mamba", "mamba2"),
        (
            _Biases(re.compile(r"blk\.\d+\.ssm_conv1d\.bias"), "use_conv_bias", True),
            _Biases(re.compile(r"blk\.\d+\.ssm_(in|out)\.bias"), "use_bias", False),
        ),
    ),
    "seed_oss": (_Biases(_INPUTS, "attention_bias", True, fixed=True), _Biases(_OUTPUT, "attention_out_bias", False), _NETWORK_BY_FIELD),
    "ernie4_5": (_Biases(_ATTENTION, "use_bias", False), _Biases(_NETWORK, "use_bias", False)),
    "ernie4_5_moe": tuple(_Biases(tensors, "use_bias", False) for tensors in (_ATTENTION, _NETWORK, _SHARED, _HEAD)),
    **dict.fromkeys(("hunyuan_v1_moe", "granitemoe", "granitemoeshared", "dots1", "afmoe"), (_BY_FIELD, _NETWORKS_NEVER)),
    "deepseek_v2": (_LATENT_BY_FIELD, _FROM_LATENT_NEVER, _Biases(_ALL_NETWORKS, "mlp_bias", False)),
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite"), (_LATENT_BY_FIELD, _FROM_LATENT_NEVER, _NETWORKS_NEVER)),
    "glm4_moe": (_INPUTS_BY_FIELD, _OUTPUT_NEVER, _NETWORKS_NEVER, _NORMS_BY_FIELD),
    "cohere": (_BY_FIELD, _NETWORK_NEVER, _NORMS_BY_FIELD),
    "stablelm": (_Biases(_INPUTS, "use_qkv_bias", False), _OUTPUT_NEVER, _NETWORK_NEVER, _SECOND_NORM),
    "jais2": (_Biases(_ATTENTION, "attention_bias", True), _Biases(_NETWORK, "mlp_bias", True)),
    "starcoder2": (_Biases(_ATTENTION, "use_bias", True), _Biases(_NETWORK, "use_bias", True)),
    **dict.fromkeys(("glm", "glm4"), (_Biases(_INPUTS, "attention_bias", True), _OUTPUT_NEVER, _NETWORK_NEVER)),
    **dict.fromkeys(("qwen2", "qwen2_vl_text", "qwen2_5_vl_text"), (_OUTPUT_NEVER, _NETWORK_NEVER)),
    "qwen2_moe": (_Biases(_INPUTS, "qkv_bias", True, fixed=True), _OUTPUT_NEVER),
    **dict.fromkeys(("gpt_oss", "gpt_neox"), (_Biases(_ATTENTION, "attention_bias", True, fixed=True),)),
}


def require_biases(kind: str, config: Mapping[str, Any], tensors: dict[str, Value], where: Path) -> tuple[str, ...]:
    """Raise ModelError or UnsupportedModelError where config.json says otherwise than the tensors whether there are biases.

    ``kind`` is the ``model_type``. Biases of zeros that it does not ask for, as old GPTQ files have them, are taken out
    of ``tensors``; a notice says so.
    """
    notices: tuple[str, ...] = ()
    for biases in _BIASES.get(kind, ()):
        given = biases.default if biases.field is None else config.get(biases.field, biases.default)
        value = not given if biases.negated else given
        said = f"{biases.field} is {str(bool(given)).lower()}" if biases.field is not None else f"{kind} has no such {biases.what}"
        names = [name for name in tensors if biases.tensors.fullmatch(name)]
        if names and not value and not biases.fixed and not any(tensors[name].make().any() for name in names):
            notices += (f"biases of zeros are left out ({listed(names, _NAMED)}): {said}",)
            for name in names:
                del tensors[name]
            names = []
        found = next(iter(names), None)
        if biases.fixed and not value:
            raise UnsupportedModelError(f"{where}: {said}; supported in this family is true")
        if found is not None and not value:
            raise ModelError(
                f"{where}: {said}, and the checkpoint has {found} (by its name in GGUF), which transformers drops; expected one of "
                f"both: correct the field, or take it out of a copy of the checkpoint"
            )
        has_weights = biases.alone or any(biases.tensors.fullmatch(f"{name.removesuffix('weight')}bias") for name in tensors)
        if found is None and value and not biases.fixed and has_weights:
            raise ModelError(f"{where}: {said}, and the checkpoint has no such {biases.what}; it is incomplete, or the field is wrong")
    return notices


def is_same(one: Value, other: Value) -> bool:
    """Whether two tensors have the same bytes."""
    if (one.dims, one.format) != (other.dims, other.format):
        return False
    a, b = one.make().reshape(-1), other.make().reshape(-1)
    return all(np.array_equal(a[start : start + _CHUNK], b[start : start + _CHUNK]) for start in range(0, len(a), _CHUNK))


def doubt_vocabulary(config: Mapping[str, Any], table: Value | None, where: Path) -> tuple[str, ...]:
    """A notice where `vocab_size` is not the number of the embedding table's rows."""
    size = config.get("vocab_size")
    if table is None or not isinstance(size, int) or size == table.dims[0]:
        return ()
    return (f"{where.name} says vocab_size {shown(size)}, and the embedding table has {table.dims[0]} rows, which count here",)

"""What tiny models of some families are otherwise than the rest, so that tests see what they have to: sizes, and what files leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aprgraph.graph.families import Family
from aprgraph.graph.families.numbers import Number
from aprgraph.graph.families.recurrent import RecurrentLayers
from aprgraph.graph.families.window import Windows
from aprgraph.graph.outline import SMALL_NUMBERS

#: Positions of a window where some layers have one, and the experts of a family that has no dense models.
WINDOW, EXPERTS = 5, 8


@dataclass(frozen=True)
class TinyFamily:
    """``optional`` are weights that the family's files have although models may lack them, by slot.

    ``wide_heads``: the head size is by itself not hidden / heads, but twice that. ``rope_dims``: files have
    `rope.dimension_count`, which is ``turned`` of a head. ``experts``: models have experts, although there are some without. ``numbers`` are by their keys without the architecture.
    """

    optional: tuple[str, ...] = ()
    wide_heads: bool = False
    tied: bool = False
    rope_base: float = 10000.0
    rope_dims: bool = False
    turned: float = 1.0
    experts: bool = False
    experts_used: int = 2
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)


_QKV_BIASES = ("q.bias", "k.bias", "v.bias")
_BIASES = ("attn_out.bias", "ffn_up.bias", "ffn_out.bias")
_OTHERWISE: Mapping[str, TinyFamily] = {
    "llama": TinyFamily(rope_dims=True),
    "qwen2": TinyFamily(rope_base=1e6),
    "qwen2moe": TinyFamily(rope_base=1e6, experts_used=3),
    "qwen3": TinyFamily(wide_heads=True, rope_base=1e6),
    "qwen3moe": TinyFamily(wide_heads=True, rope_base=1e6),
    "qwen2vl": TinyFamily(rope_base=1e6),
    **dict.fromkeys(("qwen3vl", "qwen3vlmoe"), TinyFamily(wide_heads=True, rope_base=5e6)),
    "qwen3next": TinyFamily(
        wide_heads=True, rope_base=1e6, rope_dims=True, turned=0.25, numbers={"full_attention_interval": 2},
    ),
    **dict.fromkeys(("qwen35", "qwen35moe"), TinyFamily(
        wide_heads=True, rope_base=1e7, rope_dims=True, turned=0.25, numbers={"full_attention_interval": 2},
    )),
    "gemma": TinyFamily(wide_heads=True, tied=True),
    "gemma3": TinyFamily(wide_heads=True, tied=True, rope_base=1e6),
    # The size between its dense layers is another than those around it.
    "gemma-embedding": TinyFamily(
        wide_heads=True, tied=True, rope_base=1e6, optional=("dense_2.weight", "dense_3.weight"),
        numbers={"pooling_type": 1, "dense_2_feat_out": 256, "dense_3_feat_out": 96},
    ),
    # Every second layer sees everything.
    "gemma4": TinyFamily(
        optional=("v.weight", "layer_out.weight", "moe_router.weight"), wide_heads=True, tied=True, rope_base=1e6,
        numbers={"attention.sliding_window_pattern": 2, "final_logit_softcapping": 5.0},
    ),
    # A cap that bites; every second layer sees everything.
    "gemma3n": TinyFamily(
        wide_heads=True, tied=True, rope_base=1e6,
        numbers={"attention.sliding_window_pattern": 2, "final_logit_softcapping": 5.0, "laurel_rank": 8},
    ),
    "phi3": TinyFamily(optional=("qkv_matmul.weight",), rope_dims=True),
    # A bound that bites.
    "olmo": TinyFamily(numbers={"attention.clamp_kqv": 1.5}),
    "olmo2": TinyFamily(rope_base=500000.0),
    # Caps that bite.
    "gemma2": TinyFamily(wide_heads=True, tied=True, numbers={"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    **dict.fromkeys(("granite", "granitemoe"), TinyFamily(
        tied=True, rope_dims=True,
        numbers={"embedding_scale": 6.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 4.0},
    )),
    "chatglm": TinyFamily(optional=_QKV_BIASES, rope_dims=True, turned=0.5),
    "minimax-m2": TinyFamily(wide_heads=True, rope_dims=True, turned=0.5, rope_base=5e6),
    "bitnet": TinyFamily(tied=True, rope_base=500000.0),
    "deci": TinyFamily(rope_dims=True, rope_base=500000.0),
    "mimo2": TinyFamily(
        wide_heads=True, rope_dims=True, turned=0.5,
        numbers={"leading_dense_block_count": 1, "attention.value_scale": 0.707, "rope.freq_base_swa": 5000.0},
    ),
    "dots1": TinyFamily(numbers={"leading_dense_block_count": 1, "expert_weights_scale": 1.5, "expert_weights_norm": True}),
    # Of four groups of two experts two are used.
    "exaone-moe": TinyFamily(
        wide_heads=True, rope_base=1e6, experts_used=3,
        numbers={
            "leading_dense_block_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
    ),
    "afmoe": TinyFamily(
        wide_heads=True, rope_dims=True,
        numbers={"leading_dense_block_count": 1, "expert_weights_scale": 1.5, "expert_weights_norm": True},
    ),
    "glm4": TinyFamily(rope_dims=True, turned=0.5),
    # The original context is of 4 positions.
    "mistral3": TinyFamily(
        wide_heads=True, rope_dims=True, rope_base=1e6,
        numbers={
            "attention.temperature_scale": 0.5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 4, "rope.scaling.yarn_log_multiplier": 1.0,
        },
    ),
    "smollm3": TinyFamily(tied=True, rope_dims=True, rope_base=5e6),
    "command-r": TinyFamily(tied=True, numbers={"logit_scale": 0.25}),
    "cohere2": TinyFamily(tied=True, rope_dims=True, numbers={"logit_scale": 0.25}),
    "exaone": TinyFamily(rope_base=500000.0, rope_dims=True),
    "exaone4": TinyFamily(rope_base=1e6),
    "seed_oss": TinyFamily(wide_heads=True, rope_base=1e7),
    "ernie4_5": TinyFamily(tied=True, wide_heads=True, rope_base=500000.0),
    "arcee": TinyFamily(wide_heads=True, rope_dims=True),
    "ernie4_5-moe": TinyFamily(
        optional=("moe_router_scores.bias",), tied=True, rope_base=500000.0,
        numbers={"leading_dense_block_count": 1, "expert_shared_count": 1},
    ),
    # A convolution in the layers without KV heads.
    "lfm2": TinyFamily(tied=True, rope_base=1e6),
    "lfm2moe": TinyFamily(
        optional=("moe_router_scores.bias",), tied=True, rope_base=1e6, numbers={"leading_dense_block_count": 1},
    ),
    # Queries of the fourth layer grow from the fourth position on.
    "llama4": TinyFamily(
        rope_base=500000.0, rope_dims=True, numbers={"interleave_moe_layer_step": 1, "attention.temperature_length": 4},
    ),
    "granitehybrid": TinyFamily(
        optional=("conv_out.bias",), tied=True, rope_dims=True, experts=True,
        numbers={
            "embedding_scale": 6.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 4.0, "rope.scaling.finetuned": False,
        },
    ),
    "falcon-h1": TinyFamily(optional=("conv_out.bias",), rope_base=1e11),
    "jais2": TinyFamily(rope_dims=True, optional=(*_QKV_BIASES, *_BIASES)),
    "nemotron_h": TinyFamily(optional=("conv_out.bias",)),
    # Of four groups of two experts two are used.
    "bailingmoe2": TinyFamily(
        optional=("qkv_matmul.weight",), rope_dims=True, turned=0.5, rope_base=600000.0, experts_used=3,
        numbers={
            "leading_dense_block_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
    ),
    "minicpm3": TinyFamily(tied=True, numbers={"embedding_scale": 6.0, "residual_scale": 0.25, "logit_scale": 4.0}),
    "minicpm": TinyFamily(tied=True, numbers={"embedding_scale": 6.0, "residual_scale": 0.25, "logit_scale": 4.0}),
    "internlm2": TinyFamily(rope_base=1e6),
    "deepseek": TinyFamily(rope_dims=True, experts_used=3, numbers={"leading_dense_block_count": 1, "expert_shared_count": 2}),
    "nemotron_h_moe": TinyFamily(optional=("conv_out.bias",), numbers={"expert_weights_scale": 1.5}),
    "mamba": TinyFamily(optional=("conv_out.bias",), numbers={"ssm.dt_b_c_rms": True}),  # as Falcon Mamba
    "jamba": TinyFamily(optional=("conv_out.bias", "moe_router_logits.weight"), experts=True),
    "mamba2": TinyFamily(optional=("conv_out.bias",)),
    "glm4moe": TinyFamily(
        optional=_QKV_BIASES, rope_dims=True, turned=0.5,
        numbers={"leading_dense_block_count": 1, "expert_weights_scale": 1.5},
    ),
    "deepseek2": TinyFamily(
        optional=("k_b.weight", "v_b.weight", "moe_router_scores.bias"), experts=True, experts_used=3,
        numbers={
            "leading_dense_block_count": 1, "expert_shared_count": 1, "expert_weights_norm": True, "expert_weights_scale": 1.5,
            "expert_group_count": 4, "expert_group_used_count": 2, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64, "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    # xIELU's two numbers differ, so that it shows if they are exchanged.
    "apertus": TinyFamily(rope_base=12_000_000.0),
    # Few experts have no share: one that is near the bound has a small one.
    "phimoe": TinyFamily(
        rope_dims=True, optional=(*_QKV_BIASES, "attn_out.bias", "lm_head.bias"), numbers={"router_jitter_noise": 0.8},
    ),
    "starcoder2": TinyFamily(tied=True, rope_base=100000.0, optional=(*_QKV_BIASES, *_BIASES)),
    "stablelm": TinyFamily(
        rope_dims=True, turned=0.5,
        optional=("ffn_norm.weight", "ffn_norm.bias", "attn_norm.bias", "final_norm.bias"),
    ),
    "phi2": TinyFamily(rope_dims=True, turned=0.5, optional=(*_BIASES, "lm_head.bias")),
    "gptneox": TinyFamily(rope_dims=True, turned=0.5, optional=("qkv_matmul.weight", "qkv_matmul.bias", *_BIASES)),
    "falcon": TinyFamily(optional=("qkv_matmul.weight", "attn_norm_2.weight", "attn_norm_2.bias")),
    # A bound that bites.
    "dbrx": TinyFamily(optional=("qkv_matmul.weight",), rope_base=500000.0, numbers={"attention.clamp_kqv": 1.5}),
    "starcoder": TinyFamily(tied=True, optional=("qkv_matmul.weight", "qkv_matmul.bias", *_BIASES)),
    "gpt2": TinyFamily(tied=True, optional=("qkv_matmul.weight", "qkv_matmul.bias", *_BIASES)),
    "bert": TinyFamily(optional=("token_types.weight", *_BIASES), numbers={"pooling_type": 2}),
    "nomic-bert": TinyFamily(rope_base=1000.0, optional=("token_types.weight", "qkv_matmul.weight"), numbers={"pooling_type": 1}),
    "modern-bert": TinyFamily(rope_base=160000.0, optional=("qkv_matmul.weight",), numbers={"pooling_type": 2}),
    "nemotron": TinyFamily(rope_dims=True, turned=0.5),
    "gpt-oss": TinyFamily(
        wide_heads=True, rope_base=150000.0,
        optional=tuple(f"{slot}.bias" for slot in (
            "attn_out", "moe_router_logits", "moe_expert_gate", "moe_expert_up", "moe_expert_out",
        )),
    ),
}  # fmt: skip


def tiny_family(architecture: str) -> TinyFamily:
    """What is particular of a family."""
    return _OTHERWISE.get(architecture, TinyFamily())


def keys_of(kind: type[Family]) -> Mapping[str, Number[object]]:
    """The numbers that a family reads, by their keys without the architecture."""
    return {reading.gguf: reading for reading in kind.readings().values() if isinstance(reading, Number)}


def eps_key(kind: type[Family]) -> str:
    """The key of the epsilon of a family's norms."""
    eps = kind.readings()["eps"]
    assert isinstance(eps, Number)
    return eps.gguf


def latent_numbers(size: int, value_size: int) -> dict[str, int]:
    """Sizes of latent attention: of the latent of q and of what RoPE leaves of a head of q and k, ``size``; of a head of v.

    The latent of k and v is twice as large, so that scores are over more elements than a head has.
    """
    turned = SMALL_NUMBERS["rope.dimension_count"]
    assert isinstance(turned, int)
    return {
        "attention.q_lora_rank": size, "attention.kv_lora_rank": 2 * size, "attention.key_length": 2 * size + turned,
        "attention.value_length": 2 * size, "attention.key_length_mla": size + turned, "attention.value_length_mla": value_size,
        "rope.dimension_count": turned,
    }  # fmt: skip


def has_recurrent_layers(kind: type[Family]) -> bool:
    """Whether the layers of a family without KV heads are recurrent."""
    return any(isinstance(reading, RecurrentLayers) and reading.period is None for reading in kind.readings().values())


def usual_experts(kind: type[Family]) -> int:
    """How many experts a model has by default: 0 where there are dense models of the family that are no exception."""
    count = keys_of(kind).get("expert_count")
    if tiny_family(kind.architecture).experts:
        return EXPERTS
    return 0 if count is None or count.is_optional else EXPERTS


def usual_window(kind: type[Family]) -> int | None:
    """The window that files name: 0, which is none, where all layers would have it; None where the family has no windows."""
    windows = kind.readings()["windows"]
    return (WINDOW if windows.period else 0) if isinstance(windows, Windows) else None


def other_numbers(kind: type[Family], given: Mapping[str, object]) -> dict[str, int | float]:
    """What a file has to say beside the numbers that are ``given``."""
    required = [key for key, number in keys_of(kind).items() if number.is_required and number.given is None]
    return {key: SMALL_NUMBERS.get(key, 1) for key in required if key not in given}

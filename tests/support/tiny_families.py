"""What tiny models of each family have, as conversion to GGUF leaves it: the table that tests/support/tiny.py goes by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TinyFamily:
    """A GGUF ``general.architecture``.

    ``fused``: q, k, v are one tensor, and gate and up another. ``wide_heads``: the head size is by itself not hidden / heads,
    but twice that. ``scaled_embedding``: the model multiplies embeddings by sqrt(hidden), so they are that much smaller.
    ``rope_dims``: files have `rope.dimension_count` even where all of a head is turned. ``experts`` and ``experts_used`` are
    what models have by default.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    fused: bool = False
    wide_heads: bool = False
    scaled_embedding: bool = False
    tied: bool = False
    rope_base: float = 10000.0
    rope_dims: bool = False
    sliding_window: int | None = None
    experts: int = 0
    experts_used: int = 2
    expert_ffn: bool = False
    shared_expert: bool = False


TINY_FAMILIES: dict[str, TinyFamily] = {
    "llama": TinyFamily(rope_dims=True),
    "qwen2": TinyFamily(qkv_bias=True, rope_base=1e6),
    "qwen2moe": TinyFamily(qkv_bias=True, rope_base=1e6, experts=8, experts_used=3, expert_ffn=True, shared_expert=True),
    "qwen3": TinyFamily(qk_norm=True, wide_heads=True, rope_base=1e6),
    "qwen3moe": TinyFamily(qk_norm=True, wide_heads=True, rope_base=1e6, experts=8, expert_ffn=True),
    "gemma3": TinyFamily(qk_norm=True, post_norms=True, wide_heads=True, scaled_embedding=True, tied=True, rope_base=1e6, sliding_window=5),
    # 0 says that there is no window.
    "phi3": TinyFamily(fused=True, rope_dims=True, sliding_window=0),
}

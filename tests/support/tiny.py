"""Tiny random models of every family as GGUF files, written with the `gguf` package: the witness of our own reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGUFWriter

from tests.support.tiny_blocks import FOREIGN_FORMATS, FORMATS, block_elements, random_blocks, random_weight
from tests.support.tiny_families import TINY_FAMILIES
from tests.support.tiny_tensors import TensorWriter, TinySizes, write_layer
from tests.support.tokenizer import add_byte_level_tokenizer

__all__ = ["FOREIGN_FORMATS", "FORMATS", "random_blocks", "random_weight", "write_tiny_model"]


def write_tiny_model(
    path: Path,
    *,
    family: str = "llama",
    format: str = "F32",  # noqa: A002 -- the word of the field
    formats: Mapping[str, str] | None = None,
    hidden: int | None = None,
    ffn: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int | None = None,
    layers: int = 2,
    vocabulary: int = 288,
    tied: bool | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    ffn_bias: bool = False,
    experts: int | None = None,
    experts_used: int | None = None,
    expert_ffn: int | None = None,
    shared_ffn: int | None = None,
    sliding_window: int | None = None,
    causal: bool | None = None,
    rope_freqs: bool = False,
    rope_dims: int | None = None,
    rope_base: float | Literal["usual"] | None = "usual",
    rope_linear_factor: float | None = None,
    rope_yarn_factor: float | None = None,
    rope_long_and_short: bool = False,
    original_context: int | None = None,
    context: int = 64,
    eps: float = 1e-5,
    scales: Mapping[str, Sequence[float]] | None = None,
    tokenizer: bool = True,
    bos: bool = False,
    alignment: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a model and return ``path``. The same options give the same bytes.

    ``format`` is the block format of every matrix, ``formats`` that of some: it maps the ends of tensor names, such as
    ``"ffn_down.weight"`` or ``"blk.1.attn_q.weight"``, to formats. Norms and biases are F32 unless ``formats`` names them,
    routers always. Sizes that are not given are the smallest of the usual proportions that the formats allow (multiples of
    256 for K-quants and most IQ formats). What is None is as usual in the family (tests/support/tiny_families.py); the
    family `llama` with ``experts`` is Mixtral. ``original_context`` is for YaRN and for ``rope_long_and_short``, the two sets
    of frequency factors of `phi3`. ``scales`` are tensors that scale weights (`.scale`), by name. A tokenizer takes a ``vocabulary`` of at least 272; without one it may be as small as 1.
    ``rope_base`` None leaves the key out. Two tensors never hold the same values, nor do two layers.
    """
    traits = TINY_FAMILIES[family]
    chosen = dict(formats or {})
    unit = 256 if 256 in map(block_elements, (format, *chosen.values())) else 64
    hidden = unit if hidden is None else hidden
    ffn = unit * 3 // 2 if ffn is None and unit == 64 else unit if ffn is None else ffn
    head_size = hidden // heads * (2 if traits.wide_heads else 1) if head_size is None else head_size
    experts = traits.experts if experts is None else experts
    small_ffn = 32 if unit == 64 else unit
    sizes = TinySizes(
        layers, vocabulary, hidden, ffn, heads, kv_heads, head_size,
        rope_dims=head_size if rope_dims is None else rope_dims,
        experts=experts,
        experts_used=min(traits.experts_used, experts) if experts_used is None else experts_used,
        expert_ffn=expert_ffn or (small_ffn if traits.expert_ffn else ffn),
        shared_ffn=(shared_ffn or unit) if traits.shared_expert else 0,
    )  # fmt: skip
    writer = GGUFWriter(path, family)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if head_size * heads != hidden or traits.wide_heads:
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    if traits.rope_dims or rope_dims is not None:
        writer.add_rope_dimension_count(sizes.rope_dims)
    if rope_base is not None:
        writer.add_rope_freq_base(traits.rope_base if rope_base == "usual" else rope_base)
    for kind, factor in (("linear", rope_linear_factor), ("yarn", rope_yarn_factor)):
        if factor is not None:
            writer.add_string(f"{family}.rope.scaling.type", kind)
            writer.add_float32(f"{family}.rope.scaling.factor", factor)
    if original_context is not None:
        writer.add_rope_scaling_orig_ctx_len(original_context)
    if rope_long_and_short:
        assert original_context is not None
        writer.add_rope_scaling_attn_factors(_long_rope_magnitude(context, original_context))
    window = traits.sliding_window if sliding_window is None else sliding_window
    if window is not None:
        writer.add_sliding_window(window)
    if causal is not None:
        writer.add_causal_attention(causal)
    _add_expert_sizes(writer, sizes, own_ffn=traits.expert_ffn)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_vocab_size(vocabulary)
    if tokenizer:
        add_byte_level_tokenizer(writer, vocabulary, bos=bos)
    out = TensorWriter(writer, format, chosen, seed)
    out.matrix("token_embd.weight", vocabulary, hidden, deviation=hidden**-0.5 if traits.scaled_embedding else 1.0)
    pairs = sizes.rope_dims // 2
    if rope_freqs:
        out.given("rope_freqs.weight", np.linspace(1.0, 8.0, pairs, dtype=np.float32))
    if rope_long_and_short:
        out.given("rope_factors_long.weight", np.linspace(1.5, 9.0, pairs, dtype=np.float32))
        out.given("rope_factors_short.weight", np.linspace(1.0, 1.75, pairs, dtype=np.float32))
    biases = {"qkv": qkv_bias or traits.qkv_bias, "output": output_bias, "ffn": ffn_bias}
    for layer in range(layers):
        write_layer(out, f"blk.{layer}", traits, sizes, biases)
    out.vector("output_norm.weight", hidden, 1.0)
    if not (traits.tied if tied is None else tied):
        out.matrix("output.weight", vocabulary, hidden)
    for name, values in (scales or {}).items():
        out.given(name, np.array(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_expert_sizes(writer: GGUFWriter, sizes: TinySizes, *, own_ffn: bool) -> None:
    if sizes.experts:
        writer.add_expert_count(sizes.experts)
        writer.add_expert_used_count(sizes.experts_used)
        if own_ffn:
            writer.add_expert_feed_forward_length(sizes.expert_ffn)
        if sizes.shared_ffn:
            writer.add_expert_shared_feed_forward_length(sizes.shared_ffn)


def _long_rope_magnitude(context: int, original: int) -> float:
    """What cos and sin are multiplied by (LongRoPE, arXiv:2402.13753, as conversion to GGUF computes it)."""
    return math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original else 1.0

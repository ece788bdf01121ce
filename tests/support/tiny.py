"""Tiny random models of every family as GGUF files, written with the `gguf` package: the witness of our own reader."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGUFWriter

from aprgraph.graph.families import FAMILIES
from aprgraph.graph.metadata import ListValue
from aprgraph.graph.outline import outline
from tests.support.tiny_blocks import FOREIGN_FORMATS, FORMATS, block_elements, random_blocks, random_weight
from tests.support.tiny_families import (
    eps_key,
    has_recurrent_layers,
    keys_of,
    latent_numbers,
    other_numbers,
    tiny_family,
    usual_experts,
    usual_window,
)
from tests.support.tiny_tensors import TensorWriter
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
    value_size: int | None = None,
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
    kind, own = FAMILIES[family], tiny_family(family)
    chosen = dict(formats or {})
    unit = 256 if 256 in map(block_elements, (format, *chosen.values())) else 64
    hidden = unit if hidden is None else hidden
    ffn = unit * 3 // 2 if ffn is None and unit == 64 else unit if ffn is None else ffn
    head_size = hidden // heads * (2 if own.wide_heads else 1) if head_size is None else head_size
    experts = usual_experts(kind) if experts is None else experts
    window = usual_window(kind) if sliding_window is None else sliding_window
    numbers: dict[str, Any] = {
        "block_count": layers, "context_length": context, "embedding_length": hidden, "feed_forward_length": ffn,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads,
    }  # fmt: skip
    if head_size * heads != hidden or own.wide_heads or value_size is not None:
        numbers |= {"attention.key_length": head_size, "attention.value_length": value_size or head_size}
    if own.rope_dims or rope_dims is not None:
        numbers["rope.dimension_count"] = int(head_size * own.turned) if rope_dims is None else rope_dims
    if rope_base is not None:
        numbers["rope.freq_base"] = float(own.rope_base if rope_base == "usual" else rope_base)
    for name, factor in (("linear", rope_linear_factor), ("yarn", rope_yarn_factor)):
        if factor is not None:
            numbers |= {"rope.scaling.type": name, "rope.scaling.factor": float(factor)}
    if original_context is not None:
        numbers["rope.scaling.original_context_length"] = original_context
    if rope_long_and_short:
        assert original_context is not None
        numbers["rope.scaling.attn_factor"] = _long_rope_magnitude(context, original_context)
    if window is not None:
        numbers["attention.sliding_window"] = window
    if causal is not None:
        numbers["attention.causal"] = causal
    if experts:
        numbers |= {
            "expert_count": experts,
            "expert_used_count": min(own.experts_used, experts) if experts_used is None else experts_used,
        }
        if usual_experts(kind) or expert_ffn:
            numbers["expert_feed_forward_length"] = expert_ffn or (32 if unit == 64 else unit)
        if "expert_shared_feed_forward_length" in keys_of(kind):
            numbers["expert_shared_feed_forward_length"] = shared_ffn or unit
    numbers[eps_key(kind)] = eps
    if "attention.kv_lora_rank" in keys_of(kind):
        numbers |= latent_numbers(32 if unit == 64 else unit, head_size if value_size is None else value_size)
    if has_recurrent_layers(kind):
        numbers["attention.head_count_kv"] = ListValue([kv_heads if layer % 2 else 0 for layer in range(layers)])
    numbers |= kind.small_numbers(numbers)
    if "ssm.inner_size" in keys_of(kind):
        numbers["ssm.inner_size"] = unit
    if "attention.head_count" not in keys_of(kind):  # neither attention nor networks, as converters say it
        numbers = {key: value for key, value in numbers.items() if not key.startswith(("attention.key", "attention.value", "rope."))}
        numbers |= {"attention.head_count": 0, "feed_forward_length": 0}
        del numbers["attention.head_count_kv"]
    if "attention.key_length_swa" in keys_of(kind):
        numbers |= dict.fromkeys((f"attention.{part}_length_swa" for part in ("key", "value")), head_size // 2)
    if "embedding_length_per_layer_input" in keys_of(kind):
        numbers["embedding_length_per_layer_input"] = unit // 2 if unit == 64 else unit
    if "attention.shared_kv_layers" in keys_of(kind):  # the last layer shares the keys of the first
        numbers["attention.shared_kv_layers"] = int(layers > 2)
    if "activation_sparsity_scale" in keys_of(kind):  # in the first layer alone
        numbers["activation_sparsity_scale"] = ListValue([0.5, *[-math.inf] * (layers - 1)])
    if "moe_latent_size" in keys_of(kind):
        numbers["moe_latent_size"] = 32 if unit == 64 else unit
    numbers |= other_numbers(kind, numbers) | own.numbers

    there = {
        **dict.fromkeys(["q.bias", "k.bias", "v.bias"], qkv_bias),
        **dict.fromkeys(["ffn_gate.bias", "ffn_up.bias", "ffn_out.bias"], ffn_bias),
        **dict.fromkeys(["rope_factors_long.weight", "rope_factors_short.weight"], rope_long_and_short),
        "attn_out.bias": output_bias,
        "rope_freqs.weight": rope_freqs,
        "lm_head.weight": not (own.tied if tied is None else tied),
        **dict.fromkeys(own.optional, True),
    }
    names = {kind.tensor_name(slot, what) for slot, _, what in (key.partition(".") for key, is_there in there.items() if is_there)}
    model = outline(kind, numbers, vocabulary=vocabulary, optional=lambda name: re.sub(r"^blk\.\d+\.", "", name) in names)
    writer = GGUFWriter(path, family)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in (numbers | {"vocab_size": vocabulary}).items():
        _add_number(writer, key if key in kind.bare_keys else f"{family}.{key}", value)
    if tokenizer:
        add_byte_level_tokenizer(writer, vocabulary, bos=bos)
    out = TensorWriter(writer, format, chosen, seed)
    out.all_of(model)
    for name, values in (scales or {}).items():
        out.given(name, np.array(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_number(writer: GGUFWriter, key: str, value: object) -> None:
    """As conversion writes them: text, true or false, u32 or f32."""
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_array(key, value.values() if isinstance(value, ListValue) else value)


def _long_rope_magnitude(context: int, original: int) -> float:
    """What cos and sin are multiplied by (LongRoPE, arXiv:2402.13753, as conversion to GGUF computes it)."""
    return math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original else 1.0

"""Tiny random llama models as GGUF files, written with the `gguf` package: the witness of our own reader."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from tests.support.tokenizer import add_byte_level_tokenizer

#: The block formats that tiny models can hold; the gguf package cannot quantise to the last two, so their blocks are random.
FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q6_K", "Q4_K")
_RANDOM_BLOCKS = {"Q4_K": (256, 144), "Q6_K": (256, 210)}


def write_tiny_model(
    path: Path,
    *,
    format: str = "F32",  # noqa: A002 -- the word of the field
    formats: Mapping[str, str] | None = None,
    hidden: int | None = None,
    ffn: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int | None = None,
    layers: int = 2,
    vocabulary: int = 288,
    tied: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
    ffn_bias: bool = False,
    rope_freqs: bool = False,
    rope_dims: int | None = None,
    rope_base: float | None = 10000.0,
    rope_linear_factor: float | None = None,
    context: int = 64,
    eps: float = 1e-5,
    tokenizer: bool = True,
    bos: bool = False,
    alignment: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a model and return ``path``. The same options give the same bytes.

    ``format`` is the block format of every matrix, ``formats`` that of some: it maps the ends of tensor names, such as
    ``"ffn_down.weight"`` or ``"blk.1.attn_q.weight"``, to formats. Norms and biases are F32 unless ``formats`` names them.
    Sizes that are not given are the smallest of the usual proportions that the formats allow (multiples of 256 for
    K-quants). A tokenizer takes a ``vocabulary`` of at least 272; without one it may be as small as 1.
    ``rope_base`` None leaves the key out. Two tensors never hold the same values, nor do two layers.
    """
    chosen = dict(formats or {})
    unit = 256 if {format, *chosen.values()} & set(_RANDOM_BLOCKS) else 64
    hidden = unit if hidden is None else hidden
    ffn = unit * 3 // 2 if ffn is None and unit == 64 else unit if ffn is None else ffn
    head_size = hidden // heads if head_size is None else head_size
    rope_dims = head_size if rope_dims is None else rope_dims
    writer = GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if head_size * heads != hidden:
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    writer.add_rope_dimension_count(rope_dims)
    if rope_base is not None:
        writer.add_rope_freq_base(rope_base)
    if rope_linear_factor is not None:
        writer.add_string("llama.rope.scaling.type", "linear")
        writer.add_float32("llama.rope.scaling.factor", rope_linear_factor)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_vocab_size(vocabulary)
    if tokenizer:
        add_byte_level_tokenizer(writer, vocabulary, bos=bos)

    def matrix(name: str, *dims: int) -> None:
        fmt = next((fmt for end, fmt in chosen.items() if name.endswith(end)), format)
        _add_tensor(writer, name, fmt, dims, seed)

    def vector(name: str, length: int, mean: float) -> None:
        fmt = next((fmt for end, fmt in chosen.items() if name.endswith(end)), "F32")
        values = mean + 0.2 * _generator(name, seed).standard_normal(length)
        _add_values(writer, name, fmt, values.astype(np.float32))

    q_columns, kv_columns = heads * head_size, kv_heads * head_size
    matrix("token_embd.weight", vocabulary, hidden)
    if rope_freqs:
        _add_values(writer, "rope_freqs.weight", "F32", np.linspace(1.0, 8.0, rope_dims // 2, dtype=np.float32))
    for layer in range(layers):
        blk = f"blk.{layer}"
        vector(f"{blk}.attn_norm.weight", hidden, 1.0)
        for part, rows in (("q", q_columns), ("k", kv_columns), ("v", kv_columns)):
            matrix(f"{blk}.attn_{part}.weight", rows, hidden)
            if qkv_bias:
                vector(f"{blk}.attn_{part}.bias", rows, 0.0)
        matrix(f"{blk}.attn_output.weight", hidden, q_columns)
        if output_bias:
            vector(f"{blk}.attn_output.bias", hidden, 0.0)
        vector(f"{blk}.ffn_norm.weight", hidden, 1.0)
        for part, rows, columns in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
            matrix(f"{blk}.ffn_{part}.weight", rows, columns)
            if ffn_bias:
                vector(f"{blk}.ffn_{part}.bias", rows, 0.0)
    vector("output_norm.weight", hidden, 1.0)
    if not tied:
        matrix("output.weight", vocabulary, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _generator(name: str, seed: int) -> np.random.Generator:
    """A generator for one tensor, so that adding a tensor leaves the others as they were."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _add_tensor(writer: GGUFWriter, name: str, fmt: str, dims: tuple[int, ...], seed: int) -> None:
    generator = _generator(name, seed)
    deviation = 1.0 if name.startswith("token_embd") else dims[-1] ** -0.5
    if fmt in _RANDOM_BLOCKS:
        raw = random_blocks(fmt, int(np.prod(dims)), deviation, generator).reshape(*dims[:-1], -1)
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[fmt])
    else:
        _add_values(writer, name, fmt, (generator.standard_normal(dims) * deviation).astype(np.float32))


def _add_values(writer: GGUFWriter, name: str, fmt: str, values: npt.NDArray[np.float32]) -> None:
    kind = GGMLQuantizationType[fmt]
    if fmt in ("F32", "F16"):
        writer.add_tensor(name, values.astype(np.dtype(fmt.lower().replace("f", "float"))), raw_dtype=kind)
    else:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)


def random_blocks(fmt: str, elements: int, deviation: float, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Valid Q4_K or Q6_K blocks, u8 [bytes], whose values have about the standard deviation ``deviation`` and mean 0."""
    block_elements, block_bytes = _RANDOM_BLOCKS[fmt]
    assert elements % block_elements == 0, f"{elements} elements are not a whole number of {fmt} blocks"
    count = elements // block_elements
    raw = generator.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    spread = generator.uniform(0.8, 1.2, (count, 1))
    if fmt == "Q4_K":
        # 6-bit scales and minima average 31.5 and 4-bit values 7.5, so equal products centre the values on zero.
        scale = (deviation / 255 * spread).astype("<f2")
        raw[:, 0:2] = scale.view(np.uint8)
        raw[:, 2:4] = (scale * np.float16(7.5)).astype("<f2").view(np.uint8)
    else:
        # Scales of at most 16 keep d far from fp16's subnormals.
        raw[:, 192:208] = generator.integers(-16, 17, (count, 16)).astype(np.int8).view(np.uint8)
        raw[:, 208:210] = (deviation / 180 * spread).astype("<f2").view(np.uint8)
    return raw.reshape(-1)


def random_weight(fmt: str, dims: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random weight of ``dims`` in the format ``fmt`` as the bytes that a file would hold, u8 [bytes]."""
    if fmt in _RANDOM_BLOCKS:
        return random_blocks(fmt, math.prod(dims), 1.0, generator)
    values = generator.standard_normal(dims).astype(np.float32)
    if fmt in ("F32", "F16"):
        return values.astype(np.dtype(fmt.lower().replace("f", "float"))).reshape(-1).view(np.uint8)
    return np.ascontiguousarray(quantize(values, GGMLQuantizationType[fmt])).reshape(-1).view(np.uint8)

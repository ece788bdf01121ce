"""Writes the tiny random llama models of the golden files: one per block format, and one per feature of the family."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TinyModel:
    """``formats`` are (end of a tensor name, block format) pairs, the first that fits wins; norms and biases are F32."""

    name: str
    formats: tuple[tuple[str, str], ...]
    hidden: int = 64
    ffn: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    layers: int = 2
    vocabulary: int = 96
    rope_base: float = 10000.0
    tied: bool = False
    biases: bool = False
    #: Llama 3.1's RoPE scaling: factor, low and high frequency factors, original context.
    llama3_rope: tuple[float, float, float, int] | None = None


def _one(fmt: str) -> tuple[tuple[str, str], ...]:
    return (("", fmt),)


# K-quants need rows of a multiple of 256: the matrices whose rows are heads or the FFN wide are Q8_0 there.
_SHORT_ROWS = (("attn_output.weight", "Q8_0"), ("ffn_down.weight", "Q8_0"))

MODELS: tuple[TinyModel, ...] = (
    # A hidden size that is no multiple of any tile.
    TinyModel("llama-f32", _one("F32"), hidden=48, ffn=80, head_size=12, rope_base=500000.0),
    TinyModel("llama-f32-tied-rope-factors", _one("F32"), hidden=48, ffn=80, head_size=12, tied=True, llama3_rope=(8.0, 1.0, 4.0, 16)),
    TinyModel("llama-f32-biases", _one("F32"), hidden=48, ffn=72, heads=3, kv_heads=1, head_size=20, biases=True),
    TinyModel("llama-f16", _one("F16")),
    TinyModel("llama-bf16", _one("BF16")),
    TinyModel("llama-q8_0", _one("Q8_0")),
    TinyModel("llama-q4_0", _one("Q4_0")),
    TinyModel("llama-q4_1", _one("Q4_1")),
    # As the mixtures that are called Q4_K_M: v in Q6_K beside q and k in Q4_K.
    TinyModel("llama-q4_k", (*_SHORT_ROWS, ("attn_v.weight", "Q6_K"), ("", "Q4_K")), hidden=256, ffn=64),
    TinyModel("llama-q6_k", (*_SHORT_ROWS, ("", "Q6_K")), hidden=256, ffn=64),
)


def write_model(spec: TinyModel, path: Path, seed: int) -> None:
    """Write one model. The same arguments give the same bytes under the same versions of gguf and llama.cpp."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(spec.name)
    writer.add_block_count(spec.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(spec.rope_base)
    writer.add_rope_dimension_count(spec.head_size)
    if spec.head_size * spec.heads != spec.hidden:
        writer.add_key_length(spec.head_size)
        writer.add_value_length(spec.head_size)
    writer.add_vocab_size(spec.vocabulary)
    for name, values in _weights(spec, np.random.default_rng(seed)).items():
        fmt = "F32" if values.ndim == 1 else next(fmt for end, fmt in spec.formats if name.endswith(end))
        kind = GGMLQuantizationType[fmt]
        writer.add_tensor(name, _quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(spec: TinyModel, random: np.random.Generator) -> dict[str, F32]:
    def matrix(rows: int, columns: int) -> F32:
        return (random.standard_normal((rows, columns)) / math.sqrt(columns)).astype(np.float32)

    def norm() -> F32:
        return (1 + 0.2 * random.standard_normal(spec.hidden)).astype(np.float32)

    def bias(rows: int) -> F32:
        return (0.5 * random.standard_normal(rows)).astype(np.float32)

    q, kv = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    shapes = {
        "attn_q": (q, spec.hidden), "attn_k": (kv, spec.hidden), "attn_v": (kv, spec.hidden), "attn_output": (spec.hidden, q),
        "ffn_gate": (spec.ffn, spec.hidden), "ffn_up": (spec.ffn, spec.hidden), "ffn_down": (spec.hidden, spec.ffn),
    }  # fmt: skip
    weights: dict[str, F32] = {"token_embd.weight": random.standard_normal((spec.vocabulary, spec.hidden)).astype(np.float32)}
    if spec.llama3_rope is not None:
        weights["rope_freqs.weight"] = _llama3_factors(spec)
    for layer in range(spec.layers):
        for name in ("attn_norm", "ffn_norm"):
            weights[f"blk.{layer}.{name}.weight"] = norm()
        for name, (rows, columns) in shapes.items():
            # q and k are larger, so that the softmax is neither flat nor a step.
            weights[f"blk.{layer}.{name}.weight"] = matrix(rows, columns) * np.float32(1.5 if name in ("attn_q", "attn_k") else 1.0)
            if spec.biases:
                weights[f"blk.{layer}.{name}.bias"] = bias(rows)
    weights["output_norm.weight"] = norm()
    if not spec.tied:
        weights["output.weight"] = matrix(spec.vocabulary, spec.hidden)
    return weights


def _llama3_factors(spec: TinyModel) -> F32:
    """What each RoPE frequency is divided by (Llama 3.1's rule, as conversion to GGUF stores it)."""
    assert spec.llama3_rope is not None
    factor, low, high, context = spec.llama3_rope
    factors = []
    for index in range(0, spec.head_size, 2):
        wavelength = 2 * math.pi * spec.rope_base ** (index / spec.head_size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _quantize(values: F32, kind: GGMLQuantizationType) -> npt.NDArray[np.generic]:
    """As the file wants it: by the gguf package where it can, else by llama.cpp itself."""
    if kind == GGMLQuantizationType.F32:
        return values
    if kind == GGMLQuantizationType.F16:
        return values.astype(np.float16)
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        return _quantize_by_llama_cpp(values, kind)


def _quantize_by_llama_cpp(values: F32, kind: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    rows, columns = values.shape
    source = np.ascontiguousarray(values)
    result = np.zeros((rows, library.ggml_row_size(int(kind), columns)), np.uint8)
    written = library.ggml_quantize_chunk(int(kind), source.ctypes.data, result.ctypes.data, 0, rows, columns, None)
    assert written == result.nbytes, f"{kind.name}: {written} bytes written, expected {result.nbytes}"
    return result

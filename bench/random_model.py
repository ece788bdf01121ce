"""Models of published shapes with random weights, for measurements: what they say means nothing, what they cost does.

    python bench/random_model.py FILE [--shape llama-8b] [--format Q4_0] [--layers 32]

Weights of one row length share their random bytes, but for where they begin in them, so that a large file is written at the rate of the
disk. There is no tokenizer in it: prompts are token ids, for llama.cpp too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import repository  # noqa: F401 -- before what it makes importable
from gguf import GGMLQuantizationType, GGUFWriter

from aprgraph.graph.block_formats import BLOCK_FORMATS
from tests.support.tiny_blocks import random_values

#: Elements that are made; the rest repeats them.
_POOL = 1 << 24


@dataclass(frozen=True)
class Shape:
    """One architecture at one size: GGUF keys (below the architecture's name), and tensors of a layer, [outputs, inputs]."""

    architecture: str
    layers: int
    vocabulary: int
    hidden: int
    keys: Mapping[str, int | float]
    layer: Mapping[str, tuple[int, ...]]
    #: What stays float32 beside the vectors.
    floats: tuple[str, ...] = ()

    def tensors(self, layers: int) -> dict[str, tuple[int, ...]]:
        """All tensors of a model of so many layers, in the file's order."""
        found: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocabulary, self.hidden)}
        for layer in range(layers):
            found |= {f"blk.{layer}.{name}.weight": dims for name, dims in self.layer.items()}
        return found | {"output_norm.weight": (self.hidden,), "output.weight": (self.vocabulary, self.hidden)}

    def is_float(self, name: str, dims: tuple[int, ...]) -> bool:
        """Whether a tensor is float32 in a quantised file."""
        return len(dims) == 1 or any(f".{each}." in name for each in self.floats)


def _llama(layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, vocabulary: int, head: int) -> Shape:
    own: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "attn_q": (heads * head, hidden), "attn_k": (kv_heads * head, hidden), "attn_v": (kv_heads * head, hidden),
        "attn_output": (hidden, heads * head), "ffn_norm": (hidden,), "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }  # fmt: skip
    keys = {
        "context_length": 8192, "embedding_length": hidden, "feed_forward_length": ffn, "attention.head_count": heads,
        "attention.head_count_kv": kv_heads, "rope.dimension_count": head, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 500000.0,
    }  # fmt: skip
    return Shape("llama", layers, vocabulary, hidden, keys, own)


def _qwen3_moe(hidden: int, heads: int, kv_heads: int, head: int, experts: int, ffn: int) -> Shape:
    own: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "attn_q": (heads * head, hidden), "attn_k": (kv_heads * head, hidden), "attn_v": (kv_heads * head, hidden),
        "attn_q_norm": (head,), "attn_k_norm": (head,), "attn_output": (hidden, heads * head), "ffn_norm": (hidden,),
        "ffn_gate_inp": (experts, hidden), "ffn_gate_exps": (experts, ffn, hidden), "ffn_up_exps": (experts, ffn, hidden),
        "ffn_down_exps": (experts, hidden, ffn),
    }  # fmt: skip
    keys = {
        "context_length": 32768, "embedding_length": hidden, "feed_forward_length": 6144, "attention.head_count": heads,
        "attention.head_count_kv": kv_heads, "attention.key_length": head, "attention.value_length": head, "expert_count": experts,
        "expert_used_count": 8, "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    return Shape("qwen3moe", 48, 151936, hidden, keys, own, floats=("ffn_gate_inp",))


SHAPES = {
    "llama-8b": _llama(layers=32, hidden=4096, ffn=14336, heads=32, kv_heads=8, vocabulary=128256, head=128),
    "qwen3-30b-a3b": _qwen3_moe(hidden=2048, heads=32, kv_heads=4, head=128, experts=128, ffn=768),
}


def write_model(path: Path, shape: Shape, fmt: str, layers: int, vocabulary: int | None = None) -> None:
    """Write a GGUF file of ``layers`` layers, matrices in the block format ``fmt``, and perhaps another vocabulary than the published."""
    if vocabulary is not None:
        shape = Shape(**{**vars(shape), "vocabulary": vocabulary})
    writer = GGUFWriter(path, shape.architecture)
    writer.add_block_count(layers)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    for name, value in shape.keys.items():
        key = f"{shape.architecture}.{name}"
        writer.add_float32(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    random = np.random.default_rng(0)
    tensors = shape.tensors(layers)
    for name, dims in tensors.items():
        kind = "F32" if shape.is_float(name, dims) else fmt
        row_bytes = BLOCK_FORMATS[kind].row_bytes(dims[-1])
        raw_dims = dims if kind == "F32" else (*dims[:-1], row_bytes)
        dtype = np.dtype(np.float32 if kind == "F32" else np.uint8)
        writer.add_tensor_info(name, raw_dims, dtype, math.prod(dims[:-1]) * row_bytes, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools: dict[int, np.ndarray] = {}
    assert writer.fout is not None
    file = writer.fout[0]
    block = BLOCK_FORMATS[fmt]
    for name, dims in tensors.items():
        writer.write_padding(file, file.tell())
        deviation = dims[-1] ** -0.5
        if shape.is_float(name, dims):
            values = random.standard_normal(dims) * deviation * 2 if len(dims) > 1 else 1 + 0.1 * random.standard_normal(dims)
            file.write(values.astype("<f4").tobytes())
            continue
        left = math.prod(dims[:-1]) * block.row_bytes(dims[-1])
        if dims[-1] not in pools:
            values = random_values(fmt, (_POOL // dims[-1], dims[-1]), deviation, random)
            pools[dims[-1]] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        pool = pools[dims[-1]]
        start = int(random.integers(0, len(pool) // block.block_bytes)) * block.block_bytes
        while left:
            piece = pool[start : start + left]
            file.write(piece.data)
            left, start = left - len(piece), 0
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--format", default="Q4_0")
    parser.add_argument("--layers", type=int, help="default: as published")
    parser.add_argument("--vocabulary", type=int, help="default: as published")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    write_model(options.file, shape, options.format, options.layers or shape.layers, options.vocabulary)
    print(f"wrote {options.file}, {options.file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

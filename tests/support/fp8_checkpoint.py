"""A tiny checkpoint with weights of every kind that is read in pieces, and the same weights in F32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.graph.test_checkpoint_files import in_shards, packed
from tests.support.checkpoints import CHECKPOINTS

Tensors = dict[str, tuple[str, list[int], bytes]]
HIDDEN, HEADS, HEAD, FFN, EXPERTS, VOCABULARY, BLOCK = 48, 2, 16, 32, 4, 64, (16, 32)


def fp8(values: np.ndarray, kind: str, groups: tuple[int, int], step: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers in FP8, their scales, and what ml_dtypes and NumPy say that both are together, in f32."""
    scales = np.random.default_rng(4).uniform(0.01, 0.02, groups).astype(np.float32)
    over = np.repeat(np.repeat(scales, step[0], axis=0), step[1], axis=1)[: values.shape[0], : values.shape[1]]
    numbers = (values / over).astype({"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}[kind])
    return numbers, scales, numbers.astype(np.float32) * over


def fp8_checkpoint(folder: Path) -> tuple[Path, Path]:
    """A mixture of experts, Qwen3's, with weights of every kind: as FP8, and as the F32 that these are."""
    random = np.random.default_rng(1)
    own: Tensors = {}
    plain: Tensors = {}

    def add(name: str, *dims: int, kind: str = "F32", shared: str = "") -> None:
        values = (random.standard_normal(dims) * dims[-1] ** -0.5).astype(np.float32)
        if kind != "F32":
            rows, columns = dims
            groups, step = {
                "tensor": ((1, 1), (rows, columns)), "row": ((rows, 1), (1, columns)),
                "block": ((-(-rows // BLOCK[0]), -(-columns // BLOCK[1])), BLOCK),
            }[shared]  # fmt: skip
            numbers, scales, values = fp8(values, kind, groups, step)
            own[name] = (kind, list(dims), numbers.tobytes())
            shape = {"tensor": [], "row": [rows], "block": list(groups)}[shared]
            own[f"{name}_scale_inv"] = ("F32", shape, scales.tobytes())
        else:
            own[name] = ("F32", list(dims), values.tobytes())
        plain[name] = ("F32", list(dims), values.tobytes())

    add("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    add("model.norm.weight", HIDDEN)
    add("lm_head.weight", VOCABULARY, HIDDEN, kind="F8_E5M2", shared="row")
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name, size in (
            ("input_layernorm", HIDDEN),
            ("post_attention_layernorm", HIDDEN),
            ("self_attn.q_norm", HEAD),
            ("self_attn.k_norm", HEAD),
        ):
            add(f"{prefix}.{name}.weight", size)
        for part in "qkv":
            add(f"{prefix}.self_attn.{part}_proj.weight", HEADS * HEAD, HIDDEN, kind="F8_E4M3", shared="block")
        add(f"{prefix}.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD, kind="F8_E4M3", shared="tensor")
        add(f"{prefix}.mlp.gate.weight", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            add(f"{prefix}.mlp.experts.{expert}.gate_proj.weight", FFN, HIDDEN, kind="F8_E4M3", shared="block")
            add(f"{prefix}.mlp.experts.{expert}.up_proj.weight", FFN, HIDDEN, kind="F8_E5M2", shared="row")
            add(f"{prefix}.mlp.experts.{expert}.down_proj.weight", HIDDEN, FFN)
    config: dict[str, Any] = json.loads((CHECKPOINTS / "qwen3moe-f32" / "config.json").read_text()) | {
        "hidden_size": HIDDEN, "head_dim": HEAD, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "moe_intermediate_size": FFN,
        "num_local_experts": EXPERTS, "vocab_size": VOCABULARY,
    }  # fmt: skip
    quantised = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(BLOCK)}}
    for name, tensors, more in (("fp8", own, quantised), ("f32", plain, {})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config | more))
        (folder / name / "model.safetensors").write_bytes(packed(tensors))
    for shard in in_shards(folder / "fp8", 3):
        pad_header(folder / "fp8" / shard)
    return folder / "fp8", folder / "f32"


def pad_header(path: Path) -> None:
    """Let the data begin at a multiple of 8 bytes, as the safetensors package does."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = content[8 : 8 + length] + b" " * (-length % 8)
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + content[8 + length :])

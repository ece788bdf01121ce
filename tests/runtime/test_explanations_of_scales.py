"""Weights whose scales are misread: those of FP8 checkpoints, which lie in tensors of their own, and exponents of MXFP4."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import ReplayedModel, audit
from tests.support.blame import spoil, traced
from tests.support.fp8_checkpoint import fp8_checkpoint
from tests.support.traces import Tensor


def edit_scales(folder: Path, named: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change the scales of some weights of a checkpoint, where they lie."""
    for path in folder.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        (length,) = struct.unpack("<Q", content[:8])
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if named in name and name.endswith("_scale_inv"):
                start, end = (8 + length + place for place in entry["data_offsets"])
                scales = np.frombuffer(bytes(content[start:end]), np.float32).reshape(entry["shape"])
                content[start:end] = np.ascontiguousarray(change(scales), np.float32).tobytes()
        path.write_bytes(content)


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize(
    ("named", "change", "words"),
    [
        ("layers.1.self_attn.q_proj", np.ones_like, "blk.1.attn_q.weight is decoded without its scales"),
        ("layers.1.self_attn.q_proj", np.reciprocal, "blk.1.attn_q.weight is decoded divided by its scales, and not multiplied"),
        (
            "layers.1.self_attn.q_proj", lambda scales: scales.T.reshape(scales.shape),
            "blk.1.attn_q.weight is decoded with the scales of its blocks column by column, and not row by row",
        ),
    ],
)  # fmt: skip
def test_scales_of_fp8(named: str, change: Callable[[Tensor], Tensor], words: str, tmp_path: Path) -> None:
    """An engine that reads a checkpoint so computes what another one computes of a checkpoint that is so."""
    (tmp_path / "wrong").mkdir()
    right, wrong = (fp8_checkpoint(folder)[0] for folder in (tmp_path, tmp_path / "wrong"))
    edit_scales(wrong, named, change)
    found = audit(traced(tmp_path / "trace", wrong), ReplayedModel(load_model(right)))
    assert {local.label: local.cause for local in found.wrong} == {"layer 1 qkv_matmul": words}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_exponents_of_mxfp4_that_are_taken_for_numbers(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """ml-explore/mlx#3762."""
    model = load_model(tiny_model(family="llama", formats={"ffn_gate.weight": "MXFP4"}))
    info = model.tensor("blk.1.ffn_gate.weight")
    blocks = model.file.tensor_bytes(info).reshape(-1, info.format.block_bytes)
    weight = gguf.dequantize(np.array(blocks), gguf.GGMLQuantizationType.MXFP4).reshape(-1, 32)
    wrong = (weight * (blocks[:, :1] * 2.0 ** (127 - blocks[:, :1].astype(np.float64)))).reshape(info.dims)
    trace = traced(tmp_path / "trace", model.path, taps="ffn_norm,ffn_gate")
    spoil(trace, "ffn_gate", 1, lambda _: trace.tensor("ffn_norm", 1) @ wrong.T)
    words = "blk.1.ffn_gate.weight is decoded with its scales taken for numbers, and not for exponents of 2"
    assert {local.label: local.cause for local in audit(trace, ReplayedModel(model)).wrong} == {"layer 1 ffn_gate": words}

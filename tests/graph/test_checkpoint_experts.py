"""Experts in every way that checkpoints store them are the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources import open_source
from tests.graph.test_checkpoint_files import packed, unpacked
from tests.support.checkpoints import write_checkpoint

Tensors = dict[str, tuple[str, list[int], bytes]]
_EXPERTS = 8


def weights_of(folder: Path) -> dict[str, bytes]:
    source = open_source(folder)
    build_graph(load_model(folder))
    return {name: source.tensor_bytes(info).tobytes() for name, info in source.tensors.items()}


def rewrite(folder: Path, change: Callable[[Tensors], None]) -> None:
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    change(tensors)
    file.write_bytes(packed(tensors))


def fuse(tensors: Tensors) -> None:
    """Gate and up as one tensor of each layer, down as another, as transformers 5 has them: rows of gate, then of up."""
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        parts = {
            part: [tensors.pop(f"{experts}.{number}.{part}_proj.weight") for number in range(_EXPERTS)] for part in ("gate", "up", "down")
        }
        (rows, columns), (out, inner) = parts["gate"][0][1], parts["down"][0][1]
        both = b"".join(gate[2] + up[2] for gate, up in zip(parts["gate"], parts["up"], strict=True))
        tensors[f"{experts}.gate_up_proj"] = ("F32", [_EXPERTS, 2 * rows, columns], both)
        tensors[f"{experts}.down_proj"] = ("F32", [_EXPERTS, out, inner], b"".join(one[2] for one in parts["down"]))


def as_mixtral(tensors: Tensors) -> None:
    """Under Mixtral's names."""
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for name in [name for name in tensors if ".mlp.experts." in name]:
        before, _, part = name.removesuffix(".weight").rpartition(".")
        tensors[f"{before.replace('.mlp.', '.block_sparse_moe.')}.{names[part]}.weight"] = tensors.pop(name)


@pytest.mark.contract("FILE-HF-1")
@pytest.mark.parametrize("change", [fuse, as_mixtral])
def test_experts_are_the_same_however_they_are_stored(change: Callable[[Tensors], None], tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3moe-f32", tmp_path)
    wanted = weights_of(folder)
    rewrite(folder, change)
    assert weights_of(folder) == wanted


@pytest.mark.contract("FILE-HF-1")
def test_experts_in_fp8(tmp_path: Path) -> None:
    """Each is decoded with its own scale before they are put together."""
    folder = write_checkpoint("qwen3moe-f32", tmp_path)
    random, wanted = np.random.default_rng(8), []

    def quantise(tensors: Tensors) -> None:
        for number in range(_EXPERTS):
            name = f"model.layers.0.mlp.experts.{number}.up_proj.weight"
            shape = tensors[name][1]
            values = random.standard_normal(shape).astype(ml_dtypes.float8_e5m2)
            scale = np.array([number + 0.5], np.float32)
            tensors[name] = ("F8_E5M2", shape, values.tobytes())
            tensors[f"{name}_scale"] = ("F32", [1], scale.tobytes())
            wanted.append(values.astype(np.float32) * scale)

    rewrite(folder, quantise)
    source = open_source(folder)
    info = source.tensors["blk.0.ffn_up_exps.weight"]
    assert np.array_equal(source.tensor_bytes(info).reshape(-1).view(np.float32).reshape(info.dims), np.stack(wanted))


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda some: some.pop("model.layers.1.mlp.experts.gate_up_proj_scales"), "is there alone; expected _blocks and _scales"),
        (lambda some: some.update({"model.layers.1.mlp.experts.down_proj_scales": ("U8", [5, 64], bytes(320))}), "expected blocks of 16 bytes"),
        (lambda some: some.update({"model.layers.0.mlp.experts.down_proj_bias": ("F32", [320], bytes(1280))}), "expected 2 dimensions of F32"),
        (lambda some: some.update({"model.layers.0.mlp.experts.down_proj_blocks": ("I8", [5, 64, 1, 16], bytes(5120))}), "expected 4 dimensions of U8"),
    ],
)  # fmt: skip
def test_fused_experts_that_make_no_sense(change: Callable[[Tensors], None], words: str, tmp_path: Path) -> None:
    folder = write_checkpoint("gpt-oss-mxfp4", tmp_path)
    rewrite(folder, change)
    with pytest.raises((ModelError, UnsupportedModelError)) as caught:
        load_model(folder)
    assert words in str(caught.value)

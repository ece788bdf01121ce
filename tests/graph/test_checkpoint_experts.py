"""Experts in every way that checkpoints store them are the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.check import check
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
def test_experts_with_the_rows_of_x_first_are_told_by_their_dims(tmp_path: Path) -> None:
    """As Qwen3-VL's published checkpoints have them; transformers saves them the other way round."""
    folder = write_checkpoint("qwen3vlmoe-f32", tmp_path)
    wanted = weights_of(folder)

    def transpose(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".mlp.experts." in name]:
            dtype, dims, data = tensors[name]
            values = np.frombuffer(data, np.float32).reshape(dims).swapaxes(1, 2)
            tensors[name] = (dtype, list(values.shape), values.tobytes())

    rewrite(folder, transpose)
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


@pytest.mark.contract("FILE-HF-2")
def test_a_scale_that_is_nan_is_refused_where_a_run_would_read_it(tmp_path: Path) -> None:
    """Kernels would take it for 2^128, which no weight is; `check` reads it all the same."""
    folder = write_checkpoint("gpt-oss-mxfp4", tmp_path)
    name = "model.layers.1.mlp.experts.gate_up_proj_scales"

    def spoil(tensors: Tensors) -> None:
        dtype, dims, data = tensors[name]
        tensors[name] = dtype, dims, data[:-1] + b"\xff"

    rewrite(folder, spoil)
    pieces = open_source(folder).tensors["blk.1.ffn_up_exps.weight"].in_pieces
    assert pieces is not None
    *sound, spoilt = pieces.finders
    assert all(find().scales is not None for find in sound)
    with pytest.raises(
        ModelFileError, match=rf"{name}' holds the scale 255 \(expert {len(sound)}\), which is NaN in MXFP4; the file is damaged"
    ):
        spoilt()
    assert "weight-nonfinite" in {finding.rule.code for finding in check(folder).findings}


@pytest.mark.contract("FILE-HF-2")
def test_scales_that_are_missing_or_too_few(tmp_path: Path) -> None:
    """Every shape and dtype of a scale is one of the three that fit, or one error that says what was expected."""
    folder = write_checkpoint("gpt-oss-mxfp4", tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    name, random = "model.layers.0.self_attn.q_proj.weight", np.random.default_rng(6)
    rows, columns = unpacked(whole)[name][1]
    fitting: list[list[int]] = [[], [1], [1, 1], [rows], [rows, 1], [-(-rows // 128), -(-columns // 128)]]
    others = [[int(size) for size in random.integers(1, rows + 2, random.integers(1, 4))] for _ in range(30)]
    for number, shape in enumerate([*fitting, *others, [rows - 1], [rows, 2], [columns]]):
        dtype = "F32" if number < len(fitting) else ("F32", "F32", "F64", "U8")[number % 4]
        size = int(np.prod(shape, dtype=np.int64)) * {"F32": 4, "F64": 8, "U8": 1}[dtype]

        def scale(tensors: Tensors, shape: list[int] = shape, dtype: str = dtype, size: int = size) -> None:
            tensors[name] = ("F8_E4M3", [rows, columns], bytes(rows * columns))
            tensors[f"{name}_scale"] = (dtype, shape, bytes(size))

        (folder / "model.safetensors").write_bytes(whole)
        rewrite(folder, scale)
        if dtype == "F32" and (shape in fitting or size == 4):
            assert open_source(folder).tensors["blk.0.attn_q.weight"].in_pieces is not None
            continue
        with pytest.raises(UnsupportedModelError, match="expected one for the tensor, for each row, or for each block of 128 x 128"):
            open_source(folder)
    rewrite(folder, lambda tensors: tensors.pop(f"{name}_scale"))
    with pytest.raises(UnsupportedModelError, match="with no scale; expected one for the tensor"):
        open_source(folder)

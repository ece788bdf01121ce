"""Checkpoints whose linear layers are packed integers: GPTQ and AWQ, as the projects' own code decodes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources import open_source
from aprgraph.graph.sources.checkpoint.awq import Awq
from aprgraph.graph.sources.checkpoint.gptq import Gptq
from aprgraph.graph.sources.checkpoint.quantized_modules import ModuleFormat, with_decoded_modules
from aprgraph.graph.sources.checkpoint.safetensors import SafetensorsFile
from tests.graph.test_checkpoint_files import packed, unpacked
from tests.support.checkpoints import write_checkpoint
from tests.support.golden import GOLDEN

_DTYPES = {"int32": "I32", "float16": "F16", "float32": "F32"}
_FORMATS: dict[str, ModuleFormat] = {**{f"gptq{bits}": Gptq(bits, 32, 1) for bits in (2, 3, 4, 8)}, "awq4": Awq(32)}
Tensors = dict[str, tuple[str, list[int], bytes]]


def golden(name: str) -> dict[str, Any]:
    """The tensors of a layer, and ``weight``."""
    with np.load(GOLDEN / "quantised_layers.npz") as file:
        return {key.removeprefix(f"{name}."): file[key] for key in file.files if key.startswith(f"{name}.")}


def entries(module: str, parts: dict[str, Any]) -> Tensors:
    """Tensors of a layer as ``packed`` takes them."""
    return {f"{module}.{name}": (_DTYPES[str(values.dtype)], list(values.shape), values.tobytes()) for name, values in parts.items()}


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", _FORMATS)
def test_layers_are_decoded_as_by_the_projects_that_pack_them(name: str, tmp_path: Path) -> None:
    parts = golden(name)
    wanted = parts.pop("weight")
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a.b", parts) | {"a.norm.weight": ("F32", [1], bytes(4))}))
    found = with_decoded_modules(SafetensorsFile(path).tensors, _FORMATS[name])
    assert sorted(found) == ["a.b.weight", "a.norm.weight"]
    weight = found["a.b.weight"]
    assert (weight.dtype, weight.dims) == ("F32", wanted.shape)
    assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted)


@pytest.mark.contract("FILE-HF-5")
def test_gptq_without_g_idx_in_its_second_format_and_in_one_group(tmp_path: Path) -> None:
    parts = golden("gptq4")
    del parts["g_idx"], parts["weight"]
    integers = np.stack([parts["qweight"].view(np.uint32) >> 4 * field & 15 for field in range(8)], axis=1).reshape(64, 32).astype(int)
    zeros = np.stack([parts["qzeros"].view(np.uint32) >> 4 * field & 15 for field in range(8)], axis=2).reshape(2, 32).astype(int)
    for size, offset in ((32, 0), (32, 1), (-1, 0)):
        some = dict(parts) if size > 0 else {**parts, "qzeros": parts["qzeros"][:1], "scales": parts["scales"][:1]}
        path = tmp_path / "x.safetensors"
        path.write_bytes(packed(entries("a", some)))
        weight = with_decoded_modules(SafetensorsFile(path).tensors, Gptq(4, size, offset))["a.weight"]
        groups = np.arange(64) // (size if size > 0 else 64)
        wanted = (integers - (zeros + offset)[groups] % 16) * parts["scales"].astype(np.float32)[groups]
        assert np.array_equal(weight.view().view(np.float32).reshape(32, 64), wanted.T)


def quantised(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """A checkpoint with q and o quantised, and the one of the same weights in F32."""
    folder, plain = write_checkpoint("qwen2-f32-yarn", tmp_path), tmp_path / "plain"
    plain.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config))
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    decoded, generator = dict(tensors), np.random.default_rng(3)
    scales = (generator.random((3, 48)) / 64).astype(np.float16)
    for module in ("q_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{module}"
        values = generator.integers(0, 16, (48, 48), dtype=np.uint32)
        zeros = generator.integers(1, 16, (3, 48), dtype=np.uint32)
        if kind == "gptq":
            words = np.bitwise_or.reduce(values.reshape(6, 8, 48) << np.arange(0, 32, 4, dtype=np.uint32)[:, None], axis=1)
            zero_words = np.bitwise_or.reduce((zeros - 1).reshape(3, 6, 8) << np.arange(0, 32, 4, dtype=np.uint32), axis=2)
        else:
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            words, zero_words = (
                np.bitwise_or.reduce(one.reshape(-1, 6, 8)[..., order] << np.arange(0, 32, 4, dtype=np.uint32), axis=2)
                for one in (values, zeros)
            )
        weight = (values.astype(np.float32) - zeros.astype(np.float32).repeat(16, axis=0)) * scales.astype(np.float32).repeat(16, axis=0)
        del tensors[f"{name}.weight"]
        tensors |= entries(name, {"qweight": words.view(np.int32), "qzeros": zero_words.view(np.int32), "scales": scales})
        decoded |= entries(name, {"weight": np.ascontiguousarray(weight.T)})
    (folder / "model.safetensors").write_bytes(packed(tensors))
    (plain / "model.safetensors").write_bytes(packed(decoded))
    config["quantization_config"] = {"quant_method": kind, "bits": 4, "group_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, plain


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_quantised_checkpoint_is_that_of_its_decoded_weights(kind: str, tmp_path: Path) -> None:
    folder, plain = quantised(tmp_path, kind)
    logits = [
        aprgraph.load(path).compile("reference", directory=tmp_path / f"{path.name}.aprg").logits([3, 1, 4, 1, 5])
        for path in (folder, plain)
    ]
    assert np.array_equal(*logits)
    source = open_source(folder)
    assert f"weights of {kind.upper()} are decoded to float32 in memory, exactly: no kernel decodes them" in source.notices
    info = source.tensors["blk.1.attn_q.weight"]
    into = np.empty(40, np.uint8)
    source.read(info, 200, into)
    assert np.array_equal(into, source.tensor_bytes(info).reshape(-1)[200:240])


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.contract("FILE-HF-5")
def test_quantised_layers_that_are_incomplete_or_lie(tmp_path: Path) -> None:
    folder, _ = quantised(tmp_path, "gptq")
    file, name = folder / "model.safetensors", "model.layers.1.self_attn.o_proj"
    good, config = unpacked(file.read_bytes()), json.loads((folder / "config.json").read_text())

    def said(change: Callable[[Tensors], Any], **quantization: Any) -> str:
        tensors = dict(good)
        change(tensors)
        file.write_bytes(packed(tensors))
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": config["quantization_config"] | quantization}))
        with pytest.raises((ModelError, ModelFileError, UnsupportedModelError)) as caught:
            decode(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def decode(folder: Path) -> None:
        build_graph(load_model(folder))
        source = open_source(folder)
        source.tensor_bytes(source.tensors["blk.1.attn_output.weight"])

    def groups(*values: int) -> Callable[[Tensors], None]:
        return lambda some: some.update(entries(name, {"g_idx": np.array(values, np.int32)}))

    def nothing(some: Tensors) -> None: ...

    assert "'model.layers.1.self_attn.o_proj.qweight' is there, and scales of the same layer is not" in said(
        lambda some: some.pop(f"{name}.scales")
    )
    assert "are both there; expected one of them" in said(lambda some: some.update({f"{name}.weight": some["model.norm.weight"]}))
    assert "o_proj.scales' is 2 x 48 F16, expected 3 x 48 of F16, BF16 or F32" in said(
        lambda some: some.update({f"{name}.scales": ("F16", [2, 48], bytes(192))})
    )
    assert "o_proj.qzeros' is 2 x 6 I32, expected 3 x 6 of I32" in said(
        lambda some: some.update({f"{name}.qzeros": ("I32", [2, 6], bytes(48))})
    )
    assert "holds the group 3, expected 0 to 2" in said(groups(*[0, 1, 2, 3] * 12))
    assert "holds the group -1, expected 0 to 2" in said(groups(*[0, 1, 2, -1] * 12))
    assert "is 6 x 48, for 40 inputs; expected integers of 2, 3, 4 or 8 bits" in said(groups(*[0] * 40))
    assert "is 48 x 48 F32, expected a matrix of I32" in said(lambda some: some.update({f"{name}.qweight": ("F32", [48, 48], bytes(9216))}))
    assert "bits is 5; supported for GPTQ are 2, 3, 4 and 8" in said(nothing, bits=5)
    assert "group_size is 0, expected a number of inputs" in said(nothing, group_size=0)
    assert "checkpoint_format is 'marlin'; supported for GPTQ are the formats gptq and gptq_v2" in said(nothing, checkpoint_format="marlin")
    assert "pack_dtype is 'int16'; supported" in said(nothing, pack_dtype="int16")
    assert "bits is 8; supported for AWQ is 4" in said(nothing, quant_method="awq", bits=8)
    assert "version is 'gemv'; supported for AWQ is gemm" in said(nothing, quant_method="awq", version="gemv")
    assert "is 6 x 48, which no groups of 16 inputs fill" in said(nothing, quant_method="awq")

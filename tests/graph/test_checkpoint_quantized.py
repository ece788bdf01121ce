"""Checkpoints whose linear layers are several tensors each, as the code of the projects that quantise them decodes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.checkpoint.awq import Awq
from aprgraph.graph.sources.checkpoint.bitsandbytes import EightBits, FourBits
from aprgraph.graph.sources.checkpoint.compressed_tensors import IntQuantized, PackQuantized
from aprgraph.graph.sources.checkpoint.fp4 import COMPRESSED, MODELOPT
from aprgraph.graph.sources.checkpoint.gptq import Gptq
from aprgraph.graph.sources.checkpoint.mlx import Mlx
from aprgraph.graph.sources.checkpoint.quantized import read_quantization
from aprgraph.graph.sources.checkpoint.quantized_modules import ModuleFormat, with_decoded_modules
from aprgraph.graph.sources.checkpoint.safetensors import SafetensorsFile
from aprgraph.graph.sources.checkpoint.ternary import Ternary
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.weights import Status
from tests.graph.test_checkpoint_files import packed, unpacked
from tests.support.checkpoints import write_checkpoint
from tests.support.golden import GOLDEN, nmse

_DTYPES = {
    "float64": "F64",
    "int32": "I32",
    "float16": "F16",
    "float32": "F32",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
    "uint32": "U32",
}
_FORMATS: dict[str, ModuleFormat] = {
    **{f"gptq{bits}": Gptq(bits, 32, 1) for bits in (2, 3, 4, 8)}, "awq4": Awq(32),
    **{f"pack{bits}": PackQuantized() for bits in (2, 4, 8)}, "int8": IntQuantized(),
    "nf4": FourBits(), "fp4": FourBits(), "llm_int8": EightBits(),
}  # fmt: skip
_MLX = {
    **{f"affine{bits}": Mlx("affine", bits, 32, {}) for bits in (2, 3, 4, 5, 6, 8)}, "experts": Mlx("affine", 4, 64, {}),
    "mxfp4": Mlx("mxfp4", 4, 32, {}), "mxfp8": Mlx("mxfp8", 8, 32, {}), "nvfp4": Mlx("affine", 8, 1, {"a.b": ("nvfp4", 4, 16)}),
}  # fmt: skip
Tensors = dict[str, tuple[str, list[int], bytes]]


def golden(name: str) -> dict[str, Any]:
    """The tensors of a layer, and its weight as ``decoded``."""
    with np.load(GOLDEN / "quantised_layers.npz") as file:
        return {key.removeprefix(f"{name}."): file[key] for key in file.files if key.startswith(f"{name}.")}


def entries(module: str, parts: dict[str, Any]) -> Tensors:
    """Tensors of a layer as ``packed`` takes them."""
    return {f"{module}.{name}": (_DTYPES[str(values.dtype)], list(values.shape), values.tobytes()) for name, values in parts.items()}


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", _FORMATS)
def test_layers_are_decoded_as_by_the_projects_that_pack_them(name: str, tmp_path: Path) -> None:
    parts = golden(name)
    wanted = parts.pop("decoded")
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a.b", parts) | {"a.norm.weight": ("F32", [1], bytes(4))}))
    found = with_decoded_modules(SafetensorsFile(path).tensors, _FORMATS[name])
    assert sorted(found) == ["a.b.weight", "a.norm.weight"]
    weight = found["a.b.weight"]
    assert (weight.dtype, weight.dims) == ("F32", wanted.shape)
    assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted)
    assert weight.radius is not None
    radius = weight.radius(0, wanted.shape[0])
    assert np.array_equal(weight.radius(3, 8), radius[3:8])
    if name in ("nf4", "fp4"):  # a level that is as far away as the radius tells is the one beside it
        levels = parts["weight.quant_map"]
        absmax = np.abs(wanted).max() / np.abs(levels).max()
        assert ((radius > 0) & (radius <= np.diff(np.sort(levels)).max() / 2 * absmax * 1.001)).all()
    else:
        steps = wanted / (radius / (0.5 if name == "llm_int8" else 1.5))
        assert np.abs(steps - steps.round()).max() < 1e-2
        assert np.abs(steps).max() <= 256


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", _MLX)
def test_layers_are_decoded_as_by_mlx(name: str, tmp_path: Path) -> None:
    """Bit for bit, several rows at a time as all; and no level is farther away than the radius tells."""
    with np.load(GOLDEN / "mlx_layers.npz") as file:
        parts = {key.removeprefix(f"{name}."): file[key] for key in file.files if key.startswith(f"{name}.")}
    wanted = parts.pop("decoded")
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a.b", parts) | {"a.norm.weight": ("F32", [1], bytes(4))}))
    found = with_decoded_modules(SafetensorsFile(path).tensors, _MLX[name])
    assert sorted(found) == ["a.b.weight", "a.norm.weight"]
    weight = found["a.b.weight"]
    assert (weight.dtype, weight.dims) == ("F32", wanted.shape)
    assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted)
    assert weight.radius is not None
    rows = wanted.reshape(-1, wanted.shape[-1])
    radius = weight.radius(0, len(rows))
    assert np.array_equal(weight.radius(3, 8), radius[3:8])
    kind = {"float16": np.float16}.get(str(parts["scales"].dtype), ml_dtypes.float8_e4m3fn if name == "nvfp4" else ml_dtypes.float8_e8m0fnu)
    scales = parts["scales"].view(kind).astype(np.float32).reshape(len(rows), -1)
    scales = np.abs(scales).repeat(wanted.shape[-1] // scales.shape[-1], axis=1)
    if "biases" in parts:
        assert np.array_equal(radius, np.float32(1.5) * scales)
    elif name == "mxfp8":  # three bits behind the first, or what is below the least power of two
        assert (radius <= np.maximum(np.abs(rows) / 16, scales * 2.0**-10)).all()
        assert (radius >= np.abs(rows) / 32).all()
    else:
        halves = {0: 0.25, 0.5: 0.25, 1: 0.25, 1.5: 0.25, 2: 0.5, 3: 0.5, 4: 1, 6: 1}
        assert np.array_equal(radius, scales * np.vectorize(halves.get, otypes=[np.float32])(np.abs(rows) / np.where(scales, scales, 1)))


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "modelopt"])
def test_floats_of_four_bits_are_decoded_as_by_compressed_tensors(name: str, tmp_path: Path) -> None:
    """ModelOpt has the same bytes under other names, and the inverse of the number of the whole layer, here a power of two."""
    stored = "mxfp4" if name == "mxfp4" else "nvfp4"
    with np.load(GOLDEN / "fp4_layers.npz") as file:
        parts = {key.removeprefix(f"{stored}."): file[key] for key in file.files if key.startswith(f"{stored}.")}
    wanted = parts.pop("decoded")
    if name == "modelopt":
        parts = {
            "weight": parts["weight_packed"],
            "weight_scale": parts["weight_scale"],
            "weight_scale_2": 1 / parts["weight_global_scale"],
        }
    tensors = entries("a.b", parts)
    if stored == "nvfp4":
        tensors["a.b.weight_scale"] = ("F8_E4M3", *tensors["a.b.weight_scale"][1:])
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(tensors))
    (weight,) = with_decoded_modules(SafetensorsFile(path).tensors, MODELOPT if name == "modelopt" else COMPRESSED).values()
    assert (weight.name, weight.dtype, weight.dims) == ("a.b.weight", "F32", wanted.shape)
    assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted)
    assert weight.radius is not None
    radius = weight.radius(0, len(wanted))
    assert np.array_equal(weight.radius(3, 8), radius[3:8])
    group = 32 if name == "mxfp4" else 16
    largest = np.abs(wanted).reshape(32, -1, group).max(axis=-1).repeat(group, axis=1)
    assert (radius <= largest / 4).all()
    assert (radius[np.abs(wanted) == largest] >= largest[np.abs(wanted) == largest] / 8).all()


@pytest.mark.contract("FILE-HF-5")
def test_a_checkpoint_of_modelopt_is_that_of_its_decoded_weights(tmp_path: Path) -> None:
    """By config.json, or by hf_quant_config.json beside it; scales of activations and caches are left out, with notices."""
    folder, plain = quantised(tmp_path, "awq")
    config, tensors = json.loads((plain / "config.json").read_text()), unpacked((plain / "model.safetensors").read_bytes())
    generator, decoded = np.random.default_rng(5), dict(tensors)
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    for module in ("q_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{module}"
        codes = generator.integers(0, 16, (48, 48), dtype=np.uint8)
        scales = generator.uniform(0.1, 4, (48, 3)).astype(ml_dtypes.float8_e4m3fn)
        whole = np.float32(0.017)
        del tensors[f"{name}.weight"]
        tensors |= entries(name, {"weight": codes[:, ::2] | codes[:, 1::2] << 4, "input_scale": np.float32(3).reshape(()),
                                  "weight_scale_2": whole.reshape(())})  # fmt: skip
        tensors[f"{name}.weight_scale"] = ("F8_E4M3", [48, 3], scales.tobytes())
        decoded |= entries(name, {"weight": levels[codes] * (scales.astype(np.float32) * whole).repeat(16, axis=1)})
    tensors["model.layers.1.self_attn.k_proj.k_scale"] = ("F32", [], bytes(4))
    (folder / "model.safetensors").write_bytes(packed(tensors))
    (plain / "model.safetensors").write_bytes(packed(decoded))
    given = {"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8}}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "modelopt", **given}}))
    logits = [
        aprgraph.load(path).compile("reference", directory=tmp_path / f"{path.name}.aprg").logits([3, 1, 4, 1, 5])
        for path in (folder, plain)
    ]
    assert np.array_equal(*logits)
    notices = [str(one) for one in load_model(folder).notices]
    assert "activations are not rounded, as the checkpoint of ModelOpt (NVFP4) asks for" in notices
    assert "keys and values of the cache are not rounded, as the checkpoint of ModelOpt (NVFP4) asks for" in notices
    assert any(one.startswith("tensors that scale the keys and values of a cache in 8 bits") for one in notices)
    (folder / "config.json").write_text(json.dumps(config))
    old = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (folder / "hf_quant_config.json").write_text(json.dumps(old))
    assert "activations are not rounded, as the checkpoint of ModelOpt (NVFP4) asks for" in open_source(folder).notices
    name = "model.layers.1.self_attn.q_proj"
    (folder / "model.safetensors").write_bytes(packed({one: tensor for one, tensor in tensors.items() if one != f"{name}.weight_scale_2"}))
    with pytest.raises(ModelFileError, match="q_proj.weight' has scales in F8_E4M3, expected such with weight_scale_2, of one number"):
        open_source(folder)
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "W4A8_AWQ"}}))
    with pytest.raises(UnsupportedModelError, match="ModelOpt's quant_algo is 'W4A8_AWQ'; supported are FP8, NVFP4, "):
        open_source(folder)


@pytest.mark.contract("FILE-HF-5")
def test_a_checkpoint_of_mlx_is_that_of_its_decoded_weights(tmp_path: Path) -> None:
    """As mlx-lm writes config.json: `quantization`, the same without a method as `quantization_config`, and layers of their own."""
    folder, plain = quantised(tmp_path, "awq")
    (folder / "config.json").write_text((plain / "config.json").read_text())
    config, tensors = json.loads((folder / "config.json").read_text()), unpacked((plain / "model.safetensors").read_bytes())
    generator, decoded = np.random.default_rng(5), dict(tensors)
    for module, bits in (("q_proj", 4), ("o_proj", 8)):
        name = f"model.layers.1.self_attn.{module}"
        codes = generator.integers(0, 1 << bits, (48, 48), dtype=np.uint32)
        words = np.bitwise_or.reduce(codes.reshape(48, -1, 32 // bits) << np.arange(0, 32, bits, dtype=np.uint32), axis=2)
        scales, biases = ((generator.standard_normal((48, 3)) / 8 / (1 << bits)).astype(np.float16) for _ in range(2))
        weight = codes.astype(np.float32) * scales.repeat(16, axis=1) + biases.astype(np.float32).repeat(16, axis=1)
        del tensors[f"{name}.weight"]
        tensors |= entries(name, {"weight": words, "scales": scales, "biases": biases})
        decoded |= entries(name, {"weight": weight})
    (folder / "model.safetensors").write_bytes(packed(tensors))
    (plain / "model.safetensors").write_bytes(packed(decoded))
    given = {
        "bits": 4,
        "group_size": 16,
        "mode": "affine",
        "model.layers.1.self_attn.o_proj": {"bits": 8, "group_size": 16},
        "lm_head": False,
    }
    (folder / "config.json").write_text(json.dumps(config | {"quantization": given, "quantization_config": given}))
    logits = [
        aprgraph.load(path).compile("reference", directory=tmp_path / f"{path.name}.aprg").logits([3, 1, 4, 1, 5])
        for path in (folder, plain)
    ]
    assert np.array_equal(*logits)
    assert (
        "2 weights of MLX are decoded to float32 in memory (18,432 bytes), without rounding: no kernel does that"
        in open_source(folder).notices
    )

    def said(tensors: Tensors = tensors, **quantization: Any) -> str:
        (folder / "model.safetensors").write_bytes(packed(tensors))
        (folder / "config.json").write_text(json.dumps(config | {"quantization": given | quantization}))
        with pytest.raises((ModelError, ModelFileError, UnsupportedModelError)) as caught:
            open_source(folder)
        return str(caught.value)

    q = "model.layers.1.self_attn.q_proj"
    assert "q_proj.weight' is 48 x 6 and its scales 48 x 3 F16; expected those of 4 bits in groups of 32 inputs" in said(group_size=32)
    assert "quantization.bits is 7; supported for MLX's mode affine are 2, 3, 4, 5, 6 and 8" in said(bits=7)
    assert "quantization.mode is 'int4'; supported for MLX are affine, mxfp4, mxfp8 and nvfp4" in said(mode="int4")
    assert "quantization.group_size is 0, expected how many inputs share a scale" in said(group_size=0)
    assert "has no biases, expected 48 x 3 in the mode affine" in said(
        {name: one for name, one in tensors.items() if name != f"{q}.biases"}
    )
    assert "scales of the same layer is not" in said({name: one for name, one in tensors.items() if name != f"{q}.scales"})


@pytest.mark.contract("FILE-HF-5")
def test_experts_as_mlx_calls_them_and_norms_that_it_shifts(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3moe-f32", tmp_path)
    wanted = {name: open_source(folder).tensor_bytes(info).tobytes() for name, info in open_source(folder).tensors.items()}
    stored, tensors = unpacked((folder / "model.safetensors").read_bytes()), {}
    for name, (dtype, dims, content) in stored.items():
        if ".experts." not in name:
            tensors[name] = (dtype, dims, content)
        elif ".experts.0." in name:
            names = [name.replace(".experts.0.", f".experts.{number}.") for number in range(len(stored))]
            all_of_them = [stored[one][2] for one in names if one in stored]
            tensors[name.replace(".experts.0.", ".switch_mlp.")] = (dtype, [len(all_of_them), *dims], b"".join(all_of_them))
    assert any("switch_mlp" in name for name in tensors)
    (folder / "model.safetensors").write_bytes(packed(tensors))
    source = open_source(folder)
    assert {name: source.tensor_bytes(info).tobytes() for name, info in source.tensors.items()} == wanted
    folder = write_checkpoint("qwen35-f32", tmp_path)
    content = packed(unpacked((folder / "model.safetensors").read_bytes()))
    length = int.from_bytes(content[:8], "little")
    header = b'{"__metadata__":{"format":"mlx"},' + content[9 : 8 + length]
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    with pytest.raises(UnsupportedModelError, match="MLX wrote them, whose converter changes norms and convolutions of qwen35; give the"):
        open_source(folder)


@pytest.mark.contract("FILE-HF-5")
def test_ternary_layers_as_transformers_documents_them(tmp_path: Path) -> None:
    """The example of ``transformers.integrations.bitnet.unpack_weights``, and both classes' use of the scale."""
    octets = np.array([[0b10100001, 0b00011000], [0b10010000, 0b00001010]], np.uint8)
    wanted = np.array([[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]], np.float32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        packed(entries("a.b", {"weight": octets, "weight_scale": np.array([4], np.float32)}) | {"c.weight": ("U8", [2, 1], b"ab")})
    )
    with pytest.raises(ModelError, match=r"'c\.weight' is there, and weight_scale of the same layer is not"):
        with_decoded_modules(SafetensorsFile(path).tensors, Ternary(divides=False))
    tensors = {name: tensor for name, tensor in SafetensorsFile(path).tensors.items() if name != "c.weight"}
    for divides, scale in ((False, 4), (True, 0.25)):
        weight = with_decoded_modules(tensors, Ternary(divides))["a.b.weight"]
        assert weight.dims == wanted.shape
        assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted * np.float32(scale))
        assert weight.radius is not None
        assert np.array_equal(weight.radius(2, 5), np.full((3, 2), scale / 2, np.float32))
    path.write_bytes(packed(entries("a.b", {"weight": octets | 3, "weight_scale": np.array([4], np.float32)})))
    with pytest.raises(ModelFileError, match="holds two bits that are 3"):
        with_decoded_modules(SafetensorsFile(path).tensors, Ternary(divides=False))["a.b.weight"].view()


@pytest.mark.contract("FILE-HF-5")
def test_a_packed_checkpoint_of_bitnet_is_that_of_its_decoded_weights(tmp_path: Path) -> None:
    folder, plain = write_checkpoint("bitnet-f32-relu2", tmp_path), tmp_path / "plain"
    plain.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config))
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    decoded, generator = dict(tensors), np.random.default_rng(5)
    for module in [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[f"{module}.weight"][1]
        octets = np.zeros((rows // 4, columns), np.uint8)
        values = generator.integers(0, 3, (rows, columns), dtype=np.uint8)
        for place in range(4):
            octets |= values[place * rows // 4 : (place + 1) * rows // 4] << np.uint8(2 * place)
        scale = np.array([0.25], np.float32)
        tensors |= entries(module, {"weight": octets, "weight_scale": scale})
        decoded |= entries(module, {"weight": (values.astype(np.float32) - 1) * scale})
    (folder / "model.safetensors").write_bytes(packed(tensors))
    (plain / "model.safetensors").write_bytes(packed(decoded))

    def read(**given: object) -> list[str]:
        settings = {"quant_method": "bitnet", "linear_class": "autobitlinear"} | given
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
        return list(load_model(folder).notices)

    said = read()
    assert any("activations are not rounded to 8 bits" in notice for notice in said)
    assert any("14 weights of BitNet are decoded to float32" in notice for notice in said)
    logits = [
        aprgraph.load(path).compile("reference", directory=tmp_path / f"{path.name}.aprg").logits([3, 1, 4, 1, 5])
        for path in (folder, plain)
    ]
    assert np.array_equal(*logits)
    for given, words in (
        ({"quantization_mode": "online"}, "quantization_mode is 'online'; supported for BitNet is offline"),
        ({"linear_class": "linear"}, "linear_class is 'linear'; supported for BitNet are bitlinear and autobitlinear"),
        ({"use_rms_norm": True}, "use_rms_norm is true"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            read(**given)


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_quantised_checkpoint_is_the_one_that_it_was_made_from(kind: str, tmp_path: Path) -> None:
    """Up to the steps of the integers; scales that are twice as large are a factor."""
    folder, plain = quantised(tmp_path, kind)
    file, name = plain / "model.safetensors", "model.layers.1.self_attn.o_proj"
    tensors = unpacked(file.read_bytes())
    info = open_source(folder).tensors["blk.1.attn_output.weight"]
    assert info.radius is not None
    half_a_step = info.radius(0, 48) / 3
    weight = np.frombuffer(tensors[f"{name}.weight"][2], np.float32).reshape(48, 48)
    moved = weight + half_a_step * np.random.default_rng(5).uniform(-1, 1, weight.shape).astype(np.float32)
    file.write_bytes(packed(tensors | entries(name, {"weight": moved.astype(np.float32)})))
    report = aprgraph.compare_weights(plain, folder)
    assert (report.exit_code, [one.name for one in report.of(Status.ROUNDED)]) == (0, [info.name])
    assert f"1 the same up to the rounding of {kind.upper()}" in report.sentence
    good = unpacked((folder / "model.safetensors").read_bytes())
    scales = np.frombuffer(good[f"{name}.scales"][2], np.float16).reshape(3, 48)
    (folder / "model.safetensors").write_bytes(packed(good | entries(name, {"scales": 2 * scales})))
    report = aprgraph.compare_weights(plain, folder)
    assert [(one.kind, one.text) for one in report.unlike] == [("factor", "A is 0.5 times B")]


@pytest.mark.contract("FILE-HF-5")
def test_gptq_without_g_idx_in_its_second_format_and_in_one_group(tmp_path: Path) -> None:
    parts = golden("gptq4")
    del parts["g_idx"], parts["decoded"]
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
    said = f"2 weights of {kind.upper()} are decoded to float32 in memory (18,432 bytes), without rounding: no kernel does that"
    assert said in source.notices
    config = json.loads((folder / "config.json").read_text())
    beside = {"gptq": "quantize_config.json", "awq": "quant_config.json"}[kind]
    del config["quantization_config"]
    old = {"bits": 4, "group_size": 16} if kind == "gptq" else {"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / beside).write_text(json.dumps(old))
    assert said in open_source(folder).notices
    info = source.tensors["blk.1.attn_q.weight"]
    into = np.empty(40, np.uint8)
    source.read(info, 200, into)
    assert np.array_equal(into, source.tensor_bytes(info).reshape(-1)[200:240])


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("given", [
    {"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "gptq", "bits": 4}, {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"targets": ["Linear"]}}},
])  # fmt: skip
def test_weights_that_are_not_quantised_as_the_configuration_says(given: dict[str, Any], tmp_path: Path) -> None:
    """As of adapters that were merged into the original weights, with the configuration of the quantised ones."""
    folder = write_checkpoint("qwen2-f32-yarn", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    wanted = dict(open_source(folder).tensors)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": given}))
    source = open_source(folder)
    assert dict(source.tensors) == wanted
    kind = {"gptq": "GPTQ", "modelopt": "NVFP4"}.get(given["quant_method"], given["quant_method"])
    assert any(
        str(one).startswith(f"config.json says that weights are quantised by {kind}, and none in the files is: ") for one in source.notices
    )


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


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", ["pack4", "int8", "nf4", "llm_int8"])
def test_any_rows_of_a_layer_are_decoded_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = golden(name)
    wanted = parts.pop("decoded")
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a", parts)))
    monkeypatch.setattr("aprgraph.graph.sources.checkpoint.quantized_modules._CHUNK", 7 * 64)
    weight = with_decoded_modules(SafetensorsFile(path).tensors, _FORMATS[name])["a.weight"]
    assert np.array_equal(weight.view().view(np.float32).reshape(wanted.shape), wanted)


@pytest.mark.contract("FILE-HF-5")
def test_older_packed_layers_in_the_order_of_activations(tmp_path: Path) -> None:
    parts = golden("pack4")
    wanted = parts.pop("decoded")
    order = np.random.default_rng(2).permutation(64)
    integers = np.stack([parts["weight_packed"].view(np.uint32) >> 4 * field & 15 for field in range(8)], axis=2).reshape(32, 64)
    shuffled = integers[:, order].reshape(32, 8, 8)
    words = np.bitwise_or.reduce(shuffled << np.arange(0, 32, 4, dtype=np.uint32), axis=2)
    groups = (np.arange(64) // 32)[order].astype(np.int32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a", {**parts, "weight_packed": words.view(np.int32), "weight_g_idx": groups})))
    weight = with_decoded_modules(SafetensorsFile(path).tensors, PackQuantized())["a.weight"]
    assert np.array_equal(weight.view().view(np.float32).reshape(32, 64), wanted[:, order])


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("pack4", {"weight_shape": np.array([31, 64])}, "weight_shape' says 31 x 64, expected 32 rows"),
        ("pack4", {"weight_shape": np.array([32, 60])}, "is 32 x 8, for 60 inputs; expected integers of 2, 4 or 8 bits"),
        ("pack4", {"weight_shape": np.array([32.0, 64.0])}, "is 2 F64, expected 2 of I64 or I32"),
        ("pack4", {"weight_scale": np.ones((32, 3), np.float32)}, "is 32 x 3, and 64 inputs do not divide among 3 groups"),
        ("pack4", {"weight_scale": np.ones((31, 2), np.float32)}, "is 31 x 2 F32, expected 32 x 2 of F16, BF16 or F32"),
        ("pack4", {"weight_zero_point": np.ones((3, 2), np.int32)}, "is 3 x 2 I32, expected 4 x 2 of I32"),
        ("int8", {"weight_scale": None}, "'a.weight' is there, and weight_scale of the same layer is not"),
        ("int8", {"weight_zero_point": np.ones((32, 2), np.int8)}, "is 32 x 2 I8, expected 32 x 1 of I8"),
        ("nf4", {"weight.absmax": None}, "'a.weight' is there, and weight.absmax of the same layer is not"),
        ("nf4", {"weight.nested_quant_map": None}, "has no nested_quant_map beside it"),
        ("nf4", {"weight.quant_state.bitsandbytes__nf4": None}, "has no quant_state beside it"),
        ("nf4", {"weight.quant_state.bitsandbytes__nf4": np.frombuffer(b"[1]", np.uint8)}, "holds no description of a matrix"),
        ("fp4", {"weight.quant_state.bitsandbytes__fp4": np.frombuffer(b'{"shape": [32, 64], "blocksize": 0}', np.uint8)}, "says the shape and"),
        ("fp4", {"weight.quant_state.bitsandbytes__fp4": np.frombuffer(b'{"shape": [32, 32], "blocksize": 64}', np.uint8)}, "expected 512 x 1"),
        ("fp4", {"weight.absmax": np.ones(31, np.float32)}, "is 31 F32, expected 32 of F32"),
        ("llm_int8", {"SCB": np.ones(31, np.float32)}, "is 31 F32, expected 32 of F32"),
        ("llm_int8", {"weight_format": np.array(2, np.uint8)}, "is not 0, rows one after the other"),
    ],
)  # fmt: skip
def test_layers_of_other_formats_that_lie(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    parts = golden(name)
    del parts["decoded"]
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a", {part: values for part, values in {**parts, **changes}.items() if values is not None})))
    with pytest.raises((ModelError, ModelFileError)) as caught:
        with_decoded_modules(SafetensorsFile(path).tensors, _FORMATS[name])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", ["pack4", "int8"])
@pytest.mark.parametrize(
    ("groups", "is_refused"),
    [
        ({"Linear": False}, True),
        ({"Linear": True}, False),
        ({"Linear": None}, False),
        ({"Linear": True, "re:a[.].*": False}, True),
        ({"re:a[.].*": False, "a.b": True}, False),
        ({"re:b": False, "b": False, "Conv1d": False}, False),
    ],
)
def test_zero_points_that_config_json_speaks_of_are_needed(
    name: str, groups: dict[str, bool | None], is_refused: bool, tmp_path: Path
) -> None:
    parts = golden(name)
    parts.pop("decoded")
    parts.pop("weight_zero_point", None)
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a.b", parts)))
    given = {str(number): {"targets": [one], "weights": {"symmetric": value}} for number, (one, value) in enumerate(groups.items())}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": given}}
    quantization = read_quantization(config, tmp_path / "config.json")
    if not is_refused:
        assert "a.b.weight" in quantization.decode(SafetensorsFile(path).tensors)[0]
        return
    with pytest.raises(ModelError, match=r"and weight_zero_point of the same layer is not, though config\.json says symmetric false of it"):
        quantization.decode(SafetensorsFile(path).tensors)


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.parametrize(("targets", "words"), [("Linear", "expected names of layers"), (["re:("], "is no regular expression")])
def test_targets_that_make_no_sense(targets: object, words: str, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"0": {"targets": targets}}}}
    with pytest.raises(ModelError, match=words):
        read_quantization(config, tmp_path / "config.json")


@pytest.mark.contract("FILE-HF-5")
@pytest.mark.parametrize("name", ["pack4", "int8", "nf4", "llm_int8"])
def test_checkpoints_of_other_formats(name: str, tmp_path: Path) -> None:
    """A layer of 64 inputs and 32 outputs in a checkpoint that has it elsewhere in F32."""
    folder = write_checkpoint("qwen2-f32-yarn", tmp_path)
    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    parts = golden(name)
    wanted = parts.pop("decoded")
    tensors = unpacked(file.read_bytes())
    del tensors["model.layers.0.mlp.up_proj.weight"]
    file.write_bytes(packed(tensors | entries("model.layers.0.mlp.up_proj", parts)))
    kind = "bitsandbytes" if name in ("nf4", "llm_int8") else "compressed-tensors"
    groups = {"group_0": {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8}}}
    quantization = {"load_in_4bit": True} if name == "nf4" else {"quant_method": kind, "config_groups": groups}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    source = open_source(folder)
    info = source.tensors["blk.0.ffn_up.weight"]
    assert np.array_equal(source.tensor_bytes(info).view(np.float32).reshape(wanted.shape), wanted)
    said = f"1 weight of {kind} is decoded to float32 in memory (8,192 bytes), without rounding: no kernel does that"
    assert said in source.notices
    rounded = "activations are not rounded to 8 bits, as config.json asks for (input_activations)"
    assert (rounded in source.notices) == (kind == "compressed-tensors")


@pytest.mark.contract("FILE-HF-5")
def test_experts_that_are_quantised_one_by_one(tmp_path: Path) -> None:
    folder, plain = write_checkpoint("qwen3moe-f32", tmp_path), tmp_path / "plain"
    plain.mkdir()
    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors, generator = unpacked(file.read_bytes()), np.random.default_rng(4)
    decoded = dict(tensors)
    for name in [name for name in tensors if ".experts." in name]:
        rows, columns = tensors[name][1]
        values = generator.integers(-127, 128, (rows, columns)).astype(np.int8)
        scales = generator.random(rows).astype(np.float32) / 8
        module = name.removesuffix(".weight")
        tensors |= entries(module, {"weight": values, "SCB": scales})
        weight = values.astype(np.float32) * scales[:, None] * np.float32(7.874015718698502e-3)
        decoded |= entries(module, {"weight": weight})
    file.write_bytes(packed(tensors))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_8bit": True}}))
    (plain / "config.json").write_text(json.dumps(config))
    (plain / "model.safetensors").write_bytes(packed(decoded))
    ours, theirs = (
        aprgraph.load(path).compile(target, directory=tmp_path / f"x.{target}.aprg").logits([3, 1, 4])
        for path, target in ((folder, "llvm"), (plain, "reference"))
    )
    assert nmse(ours, theirs) <= 1e-11


@pytest.mark.contract("FILE-HF-5")
def test_misreadings_of_four_bits(tmp_path: Path) -> None:
    """By golden values: with its halves exchanged each byte gives its two elements in the other order."""
    parts = golden("nf4")
    wanted = parts.pop("decoded")
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(entries("a.b", parts)))
    weight = with_decoded_modules(SafetensorsFile(path).tensors, FourBits())["a.b.weight"]
    found = {one.words: one.values(0, len(wanted)) for one in weight.misreadings()}
    assert np.array_equal(found["with the low half of each byte first"], wanted.reshape(-1, 2)[:, ::-1].reshape(wanted.shape))
    of_fp4 = found["with the levels of FP4"]
    zeros = wanted == wanted.reshape(-1)[np.abs(wanted).argmin()]
    assert (np.abs(of_fp4[zeros]) > 0).all()  # NF4's code of 0 is a number in FP4
    lower = found["without the offset of its nested factors"]
    assert (np.abs(lower[wanted != 0]) < np.abs(wanted[wanted != 0])).all()

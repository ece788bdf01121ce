"""NVFP4 files, whose weights have a scale of their own in another tensor, against a formula of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.runtime.blame import audit
from aprgraph.runtime.decoded_weights import DecodedWeights, decode_weight
from aprgraph.runtime.kernel_values import weight_array
from aprgraph.runtime.reference import interpret
from tests.golden.make_llama_cpp_stages import MODELS, llama_cpp_trace, write_model
from tests.support.golden import nmse
from tests.support.tiny import write_tiny_model

Tiny = Callable[..., Path]
TOKENS = (5, 3, 200, 2)
#: What E2M1's eight magnitudes are.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def decode_nvfp4(raw: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.float64]:
    """[…, bytes] -> […, columns]: 36 bytes hold four scales in unsigned E4M3, of 16 elements each, whose first halves are low nibbles."""
    rows = raw.reshape(-1, columns // 64, 36)
    values = np.zeros((len(rows), columns // 64, 64))
    for element in range(64):
        part, place = divmod(element, 16)
        code = rows[..., part].astype(int)
        exponent, mantissa = code >> 3, code & 7
        scale = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        nibble = rows[..., 4 + part * 8 + place % 8] >> (4 if place >= 8 else 0) & 15
        values[..., element] = scale * np.array(_E2M1)[nibble & 7] * np.where(nibble & 8, -1, 1)
    return values.reshape(*raw.shape[:-1], columns)


def rewrite(source: Path, path: Path, scales: dict[str, npt.NDArray[np.float32]], *, decoded: bool) -> Path:
    """A copy of a model with ``scales``; or ``decoded``, with their products with what they scale, in F64's nearest F32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture", "tokenizer.")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if decoded and tensor.tensor_type == GGMLQuantizationType.NVFP4:
            values = decode_nvfp4(tensor.data, int(tensor.shape[0]))
            scale = scales.get(tensor.name.replace(".weight", ".scale"), np.ones(1, np.float32)).astype(np.float64)
            writer.add_tensor(tensor.name, (values * scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32))
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    if not decoded:
        for name, values in scales.items():
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FORMATS = {
    f"{name}.weight": "NVFP4" for name in ("attn_q", "attn_output", "ffn_gate", "ffn_down", "ffn_down_exps", "ffn_up_exps", "output")
}
SCALES = {
    "llama": {"blk.0.attn_q.scale": [0.37], "blk.1.ffn_down.scale": [2.1], "output.scale": [0.6]},
    "qwen3moe": {
        "blk.0.attn_output.scale": [1.7],
        "blk.1.ffn_up_exps.scale": [0.3, 0.9, 1.4, 2.2],
        "blk.0.ffn_down_exps.scale": [2, 1, 0.5, 3],
    },
}


@pytest.mark.contract("LOAD-SCALES-1")
@pytest.mark.parametrize("family", SCALES)
def test_scales_are_applied_to_what_was_decoded(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    options = {"experts": 4, "expert_ffn": 64} if family == "qwen3moe" else {"ffn": 128}
    source = tiny_model(family=family, formats=FORMATS, **options)
    scales = {name: np.array(values, np.float32) for name, values in SCALES[family].items()}
    scaled = load_model(rewrite(source, tmp_path / "scaled.gguf", scales, decoded=False))
    plain = load_model(rewrite(source, tmp_path / "plain.gguf", scales, decoded=True))
    graph = build_graph(scaled)
    ours, expected = interpret(graph, scaled, TOKENS), interpret(build_graph(plain), plain, TOKENS)
    for node in graph.staged():
        assert nmse(ours[node.name], expected[node.name]) < 1e-13, node.name
    for node in graph.with_op("weight"):
        other = decode_weight(plain, build_graph(plain)[node.name])
        # Of weights that kernels get decoded, the same to the last bit but for one rounding; reading a part gives that part.
        if node.type.dtype == "nvfp4":
            np.testing.assert_allclose(weight_array(scaled, node), other, rtol=2**-23)
            parts = DecodedWeights(scaled).read(node, graph.users(node.name)[0])
            np.testing.assert_allclose(np.stack([parts[i] for i in range(len(other))]) if other.ndim > 2 else parts, other, rtol=2**-23)
    unscaled = load_model(rewrite(source, tmp_path / "unscaled.gguf", {}, decoded=False))
    assert nmse(interpret(build_graph(unscaled), unscaled, TOKENS)["lm_head"], expected["lm_head"]) > 1e-3


@pytest.mark.contract("LOAD-SCALES-1")
@pytest.mark.parametrize("family", ["llama", "qwen3moe"])
def test_llama_cpp_is_right_with_scales_and_not_without(family: str, tmp_path: Path) -> None:
    trace = llama_cpp_trace(f"{family}-nvfp4", tmp_path / "theirs", arithmetic="q8-activations")
    model = load_model(write_model(f"{family}-nvfp4", tmp_path / "tiny.gguf"))
    found = audit(trace, model)
    assert [local.label for local in found.wrong] == []
    assert found.replayed == len(trace.entries)
    unscaled = load_model(write_tiny_model(tmp_path / "unscaled.gguf", **{**MODELS[f"{family}-nvfp4"], "scales": None}))
    stages = {local.key[2] for local in audit(trace, unscaled).wrong}
    assert ({"qkv_matmul", "attn_out", "ffn_out", "lm_head"} if family == "llama" else {"moe_expert_gate", "moe_expert_out"}) <= stages


def test_scales_of_other_weights_or_sizes_are_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    source = tiny_model(formats=FORMATS, ffn=128)

    def build(name: str, *values: float) -> None:
        build_graph(load_model(rewrite(source, tmp_path / "m.gguf", {name: np.array(values, np.float32)}, decoded=False)))

    with pytest.raises(UnsupportedModelError, match=r"'blk.0.attn_k.scale' scales a weight of F32, which is not supported"):
        build("blk.0.attn_k.scale", 2.0)
    with pytest.raises(ModelError, match=r"'blk.0.attn_q.scale' is 2, expected 1"):
        build("blk.0.attn_q.scale", 2.0, 3.0)
    with pytest.raises(UnsupportedModelError, match=r"'token_embd.scale' has no place"):
        build("token_embd.scale", 2.0)


def test_scales_of_activations_are_left_out(tiny_model: Tiny, tmp_path: Path) -> None:
    name = "blk.0.attn_q.input_scale"
    path = rewrite(tiny_model(formats=FORMATS, ffn=128), tmp_path / "m.gguf", {name: np.ones(1, np.float32)}, decoded=False)
    build_graph(load_model(path))
    assert load_model(path).notices == (
        f"tensors that scale activations before they are rounded, which nothing here does, are left out (1): {name}",
    )

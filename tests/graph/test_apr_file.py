"""`.apr` files as models: the GGUF file that they were made from gives the same trace, and decoders are held to the table."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.tokenizer import load_tokenizer
from tests.support.apr_bytes import AprBytes, AprTensor, from_gguf
from tests.support.cli import files_under, run_cli
from tests.support.golden import GOLDEN

F32 = npt.NDArray[np.float32]


def trace_of(model: Path, output: Path, *more: str, target: str = "reference") -> dict[str, bytes]:
    """The files of a trace of all stages, without the manifest."""
    result = run_cli("run", model, "--tokens", "1,2,3", "--taps", "all", "--layers", "0..1", "--target", target, "-o", output, *more)
    assert result.code == 0, result.err
    return {name: data for name, data in files_under(output).items() if name.endswith(".bin")}


def apr_of(name: str, folder: Path) -> tuple[Path, AprBytes]:
    """A golden model, as `apr` makes it of GGUF."""
    file = from_gguf(GOLDEN / f"{name}.gguf")
    path = folder / f"{name}.apr"
    path.write_bytes(file.pack())
    return path, file


@pytest.mark.contract("FILE-APR-1")
@pytest.mark.parametrize("name", ["llama-f32", "llama-f16", "llama-bf16", "llama-q4_k", "llama-q6_k", "llama-q8_0", "mixtral-f32"])
def test_the_trace_is_that_of_the_gguf_file(tmp_path: Path, name: str) -> None:
    path, _ = apr_of(name, tmp_path)
    found = trace_of(path, tmp_path / "apr")
    assert len(found) > 15
    assert found == trace_of(GOLDEN / f"{name}.gguf", tmp_path / "gguf")


@pytest.mark.contract("FILE-APR-1")
def test_kernels_give_the_same_bytes(tmp_path: Path) -> None:
    path, _ = apr_of("llama-q4_k", tmp_path)
    assert trace_of(path, tmp_path / "a", target="llvm") == trace_of(GOLDEN / "llama-q4_k.gguf", tmp_path / "g", target="llvm")


def test_a_tied_head_is_a_copy_or_nothing(tmp_path: Path) -> None:
    expected = trace_of(GOLDEN / "llama-f32-tied-rope-factors.gguf", tmp_path / "gguf")
    for number, data in enumerate((None, b"")):
        _, file = apr_of("llama-f32-tied-rope-factors", tmp_path)
        table = file.tensors["token_embd.weight"]
        file.tensors["lm_head.weight"] = AprTensor(table.code, table.dims, table.data if data is None else data)
        path = tmp_path / f"{number}.apr"
        path.write_bytes(file.pack())
        assert trace_of(path, tmp_path / f"out{number}") == expected


# -- layouts that no kernel has -----------------------------------------------------------------------------------------------


def pack_q4(values: F32) -> tuple[bytes, F32]:
    """AprQ4 of some elements, and what it stands for: nibble by nibble, as the table of the format says it."""
    flat, raw, decoded = values.reshape(-1), b"", []
    for start in range(0, flat.size, 32):
        block = flat[start : start + 32]
        scale = np.float16(np.abs(block).max() / 7 or 1)
        nibbles = [int(np.clip(round(float(value / np.float32(scale))), -8, 7)) + 8 for value in block]
        decoded += [np.float32(nibble - 8) * np.float32(scale) for nibble in nibbles]
        nibbles += [0] * (32 - len(nibbles))
        raw += struct.pack("<e", scale) + bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return raw, np.array(decoded, np.float32).reshape(values.shape)


def pack_q8(values: F32) -> tuple[bytes, F32]:
    """AprQ8: one scale, then a signed byte an element."""
    scale = np.float32(np.abs(values).max() / 127)
    quants = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    return struct.pack("<f", scale) + quants.tobytes(), quants.astype(np.float32) * scale


def pack_f64(values: F32) -> tuple[bytes, F32]:
    return values.astype("<f8").tobytes(), values


def pack_padded(kind: GGMLQuantizationType) -> tuple[bytes, F32]:
    """Two rows of 300 elements in blocks of 256, each row padded to two blocks: what the gguf package makes of the blocks."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = np.random.default_rng(3).integers(0, 256, (2, 2 * size), dtype=np.uint8)
    for block in range(2):  # scales of a usual size
        for at in {GGMLQuantizationType.Q4_K: (0, 2), GGMLQuantizationType.Q6_K: (size - 2,)}[kind]:
            raw[:, block * size + at : block * size + at + 2] = np.frombuffer(struct.pack("<e", 0.01), np.uint8)
    return raw.tobytes(), gguf.dequantize(raw, kind)[:, :300]


def pack_across_rows(values: F32) -> tuple[bytes, F32]:
    """Q8_0 whose blocks go on from row to row."""
    raw = gguf.quantize(values.reshape(1, -1), GGMLQuantizationType.Q8_0)
    return raw.tobytes(), gguf.dequantize(raw, GGMLQuantizationType.Q8_0).reshape(values.shape)


VALUES = np.random.default_rng(2).standard_normal((5, 300)).astype(np.float32)
SMALL = VALUES[:, :40]
PACKED: dict[str, tuple[int, tuple[bytes, F32]]] = {
    "AprQ4": (128, pack_q4(SMALL)), "AprQ4, old code": (8, pack_q4(SMALL)), "AprQ8": (129, pack_q8(SMALL)),
    "AprQ8, old code": (9, pack_q8(SMALL)), "F64": (3, pack_f64(SMALL)),
    "Q4_K in padded rows": (12, pack_padded(GGMLQuantizationType.Q4_K)), "Q6_K in padded rows": (14, pack_padded(GGMLQuantizationType.Q6_K)),
    "Q8_0 across rows": (8, pack_across_rows(VALUES[:4, :8])),
}  # fmt: skip


def one_tensor(folder: Path, code: int, dims: Sequence[int], data: bytes) -> Path:
    path = folder / "one.apr"
    path.write_bytes(AprBytes({"architecture": "llama"}, {"token_embd.weight": AprTensor(code, tuple(dims), data)}).pack())
    return path


@pytest.mark.contract("FILE-APR-3")
@pytest.mark.parametrize("name", PACKED)
def test_decoders(tmp_path: Path, name: str) -> None:
    code, (data, expected) = PACKED[name]
    file = open_source(one_tensor(tmp_path, code, expected.shape, data))
    info = file.tensors["token_embd.weight"]
    assert (info.format.name, info.dims, info.nbytes) == ("F32", expected.shape, expected.nbytes)
    decoded = file.tensor_bytes(info)
    assert np.array_equal(decoded.view(np.float32), expected)
    for start, stop in ((0, expected.nbytes), (4, 8), (1, 7), (64, 70), (expected.nbytes - 3, expected.nbytes)):
        into = np.empty(stop - start, np.uint8)
        file.read(info, start, into)
        assert np.array_equal(into, decoded.reshape(-1)[start:stop])
    assert any("decoded to float32 in memory" in notice for notice in file.notices)


@pytest.mark.contract("FILE-APR-3")
@pytest.mark.parametrize(("code", "kind"), [
    (3, GGMLQuantizationType.Q4_1), (6, GGMLQuantizationType.Q5_0), (7, GGMLQuantizationType.Q5_1), (8, GGMLQuantizationType.Q8_0),
])  # fmt: skip
def test_codes_of_two_meanings_are_told_apart_by_size(tmp_path: Path, code: int, kind: GGMLQuantizationType) -> None:
    data = gguf.quantize(VALUES[:, :64], kind)
    file = open_source(one_tensor(tmp_path, code, (5, 64), data.tobytes()))
    info = file.tensors["token_embd.weight"]
    assert info.format.name == kind.name
    assert np.array_equal(file.tensor_bytes(info), data)


def test_a_model_of_apr_s_own_blocks_runs(tmp_path: Path) -> None:
    """Against the same model whose weights are those that the blocks stand for."""
    _, file = apr_of("llama-f32", tmp_path)
    plain = from_gguf(GOLDEN / "llama-f32.gguf")
    for number, (name, tensor) in enumerate(list(file.tensors.items())):
        if len(tensor.dims) == 2:
            values = np.frombuffer(tensor.data, np.float32).reshape(tensor.dims)
            code, (data, decoded) = ((128, pack_q4(values)), (129, pack_q8(values)))[number % 2]
            file.tensors[name] = AprTensor(code, tensor.dims, data)
            plain.tensors[name] = AprTensor(0, tensor.dims, decoded.tobytes())
    for path, one in ((tmp_path / "packed.apr", file), (tmp_path / "plain.apr", plain)):
        path.write_bytes(one.pack())
    assert trace_of(tmp_path / "packed.apr", tmp_path / "a") == trace_of(tmp_path / "plain.apr", tmp_path / "b")


# -- metadata -------------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("FILE-APR-4")
def test_numbers_of_other_names(tmp_path: Path) -> None:
    path, file = apr_of("llama-f32", tmp_path)
    expected = load_model(path).family
    for usual, other in (("num_layers", "num_hidden_layers"), ("num_heads", "n_heads"), ("num_kv_heads", "num_key_value_heads"),
                         ("rms_norm_eps", "norm_eps"), ("intermediate_size", "ffn_dim"), ("hidden_size", "d_model")):  # fmt: skip
        file.metadata[other] = file.metadata.pop(usual)
    file.metadata["architecture"] = "LlamaForCausalLM"
    path.write_bytes(file.pack())
    family = load_model(path).family
    assert all(getattr(family, name) == getattr(expected, name) for name in ("blocks", "heads", "kv_heads", "eps", "ffn", "hidden", "rope"))


@pytest.mark.contract("FILE-APR-4")
def test_overrides_go_by_the_file_s_own_names(tmp_path: Path) -> None:
    path, _ = apr_of("llama-f32", tmp_path)
    model = load_model(path, {"rope_theta": 777.0})
    assert model.family.rope.base == 777  # type: ignore[attr-defined]
    assert trace_of(path, tmp_path / "own", "--override-kv", "rope_theta=float:777") == trace_of(
        path, tmp_path / "gguf", "--override-kv", "llama.rope.freq_base=float:777"
    )


def test_a_file_that_names_no_architecture(tmp_path: Path) -> None:
    path, file = apr_of("llama-f32", tmp_path)
    del file.metadata["architecture"]
    path.write_bytes(file.pack())
    with pytest.raises(ModelError, match=r"general\.architecture"):
        load_model(path)


@pytest.mark.contract("FILE-APR-4")
@pytest.mark.parametrize("name", ["byte_pair", "sentence_piece"])
def test_the_tokenizer_is_that_of_the_gguf_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "v.apr"
    path.write_bytes(from_gguf(GOLDEN / f"{name}.gguf").pack())
    theirs, ours = (load_tokenizer(open_source(one).metadata) for one in (GOLDEN / f"{name}.gguf", path))
    text = "What is 2+2? Größe\n  x_1 <s> 日本"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert (ours.bos_id, ours.eos_ids) == (theirs.bos_id, theirs.eos_ids)


@pytest.mark.contract("FILE-APR-4")
def test_a_tokenizer_that_came_with_safetensors(tmp_path: Path) -> None:
    """It has another name for its kind, and no types of tokens."""
    path, file = tmp_path / "v.apr", from_gguf(GOLDEN / "byte_pair.gguf")
    file.metadata["tokenizer.model_type"] = "BPE"
    for name in ("tokenizer.model", "tokenizer.token_type"):
        del file.metadata[name]
    path.write_bytes(file.pack())
    opened = open_source(path)
    text = "What is 2+2? Größe"
    assert load_tokenizer(opened.metadata).encode(text) == load_tokenizer(open_source(GOLDEN / "byte_pair.gguf").metadata).encode(text)
    assert any("its tokens have no types" in notice for notice in opened.notices)
    del file.metadata["tokenizer.pre_type"]
    path.write_bytes(file.pack())
    with pytest.raises(UnsupportedModelError, match="has no tokenizer whose kind .*give the prompt as token ids"):
        load_tokenizer(open_source(path).metadata)


@pytest.mark.contract("FILE-APR-4")
def test_without_merges_tokens_have_to_be_given(tmp_path: Path) -> None:
    file = from_gguf(GOLDEN / "llama-f32.gguf")
    vocabulary = from_gguf(GOLDEN / "byte_pair.gguf").metadata
    file.metadata |= {name: value for name, value in vocabulary.items() if name.startswith("tokenizer.") and name != "tokenizer.merges"}
    path = tmp_path / "m.apr"
    path.write_bytes(file.pack())
    result = run_cli("run", path, "--prompt", "x", "--target", "reference")
    assert result.code == 2
    assert "--tokens" in result.err
    assert "merges" in result.err

"""Weights that a checkpoint has in pieces are read where they lie: expert by expert, in several files, with scales elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import Model
from aprgraph.graph.sources.checkpoint.checkpoint import Checkpoint
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import scaled_fp8, shared_by
from aprgraph.graph.sources.open import open_source
from aprgraph.graph.weight_pieces import decode_piece, packed
from aprgraph.runtime.decoded_weights import DecodedWeights, decode_weight
from aprgraph.runtime.kernel_values import pieces_in_file, weight_in_memory
from tests.support.checkpoints import gguf_of, write_checkpoint
from tests.support.fp8_checkpoint import fp8_checkpoint
from tests.support.golden import nmse

TOKENS = [3, 1, 4, 1, 5]


def never(_source: Checkpoint, tensor: Any) -> Any:
    raise AssertionError(f"{tensor.name} was put together in memory")


@pytest.mark.contract("FILE-HF-7")
def test_fp8_and_experts_one_by_one_give_the_bits_of_their_f32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits compiled, and the same numbers in float64 but for the rounding of the products; nothing is put together."""
    quantised, plain = (aprgraph.load(path) for path in fp8_checkpoint(tmp_path))
    whole = plain.compile(directory=tmp_path / "f32.aprg").logits(TOKENS, positions="all")
    exact = plain.compile("reference", directory=tmp_path / "f32.reference.aprg").logits(TOKENS, positions="all")
    made = Checkpoint.tensor_bytes
    monkeypatch.setattr(Checkpoint, "tensor_bytes", lambda source, info: (never if info.in_pieces else made)(source, info))
    assert quantised.compile(directory=tmp_path / "fp8.aprg").logits(TOKENS, positions="all").tobytes() == whole.tobytes()
    reference = quantised.compile("reference", directory=tmp_path / "fp8.reference.aprg").logits(TOKENS, positions="all")
    assert nmse(reference, exact) < 1e-13
    layouts = {str(node.attrs.get("layout", "")) for node in quantised.graph if node.op == "weight"}
    down = quantised.model.tensor("blk.1.ffn_down_exps.weight")
    assert down.in_pieces is not None
    assert not down.layout
    assert layouts == {"", "f8_e4m3_16x32", "f8_e4m3_tensor", "f8_e5m2_row"}


@pytest.mark.contract("FILE-HF-7")
def test_pieces_are_pages_of_the_files_and_what_transformers_would_decode(tmp_path: Path) -> None:
    path, _ = fp8_checkpoint(tmp_path)
    loaded = aprgraph.load(path)
    model: Model = loaded.model
    assert isinstance(model.file, Checkpoint)
    mapped = [np.frombuffer(file.mapped.mapping, np.uint8) for file in model.file._files]
    for node in loaded.graph:
        found = pieces_in_file(model, node) if node.op == "weight" else None
        if found is None:
            continue
        held = weight_in_memory(model, node)
        for place, piece in zip(held.places.tolist(), found.find(), strict=True):
            address = held.span.ctypes.data + place[0]
            assert any(file.ctypes.data <= address < file.ctypes.data + file.size for file in mapped), node.name
            assert address == piece.blocks.ctypes.data
        info = model.tensor(node.attr_str("tensor"))
        wanted = model.file.tensor_bytes(info).reshape(-1).view(np.float32).reshape(info.dims)
        assert np.array_equal(decode_weight(model, node).astype(np.float32), wanted), node.name
        one = DecodedWeights(model).read(node, loaded.graph.users(node.name)[0])
        assert np.array_equal(np.asarray(one[1]).astype(np.float32), wanted[1])
        assert packed(node.type, found.find()).size == sum(
            part.size for piece in found.find() for part in (piece.blocks, piece.scales) if part is not None
        )


@pytest.mark.contract("FILE-HF-7")
def test_parts_that_are_read_are_those_of_the_whole(tmp_path: Path) -> None:
    source = open_source(fp8_checkpoint(tmp_path)[0])
    for info in source.tensors.values():
        whole = source.tensor_bytes(info).reshape(-1)
        for start in (0, 1, info.nbytes // 3, info.nbytes - 5):
            into = np.empty(min(info.nbytes - start, info.nbytes // 2 + 3), np.uint8)
            source.read(info, start, into)
            assert np.array_equal(into, whole[start : start + into.size]), info.name


class _File:
    """A file of one array."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values.reshape(-1).view(np.uint8)

    def bytes_of(self, tensor: StoredTensor) -> np.ndarray:
        return self._values[tensor.offset : tensor.offset + tensor.nbytes]


@pytest.mark.contract("FILE-HF-7")
def test_scales_of_blocks_that_are_as_many_as_there_are_rows() -> None:
    numbers = np.random.default_rng(2).standard_normal((4, 64)).astype(ml_dtypes.float8_e4m3fn)
    scales = np.array([[1, 2], [3, 4]], np.float32)
    tensor, scale = (
        StoredTensor(_File(values), "w", dtype, values.shape, 0, values.nbytes)  # type: ignore[arg-type]
        for values, dtype in ((numbers, "F8_E4M3"), (scales, "F32"))
    )
    assert shared_by(tensor, scale, (2, 32)) == "BLOCK"
    wanted = numbers.astype(np.float32) * np.repeat(np.repeat(scales, 2, axis=0), 32, axis=1)
    value = scaled_fp8(tensor, scale, (2, 32))
    assert np.array_equal(value.make().view(np.float32).reshape(4, 64), wanted)
    assert value.in_pieces is not None
    assert np.array_equal(decode_piece(value.in_pieces.format, value.in_pieces.finders[0](), 0, 4), wanted)


@pytest.mark.contract("FILE-HF-7")
def test_scales_in_e8m0_are_powers_of_2() -> None:
    """Also where a kernel reads them; 255 is NaN (OCP Microscaling Formats 1.0)."""
    numbers = np.random.default_rng(2).standard_normal((4, 64)).astype(ml_dtypes.float8_e4m3fn)
    codes = np.array([[127, 120], [0, 255]], np.uint8)
    tensor, scale = (
        StoredTensor(_File(values), "w", dtype, values.shape, 0, values.nbytes)  # type: ignore[arg-type]
        for values, dtype in ((numbers, "F8_E4M3"), (codes, "F8_E8M0"))
    )
    factors = np.array([[1, 2.0**-7], [2.0**-127, np.nan]], np.float32)
    wanted = numbers.astype(np.float32) * np.repeat(np.repeat(factors, 2, axis=0), 32, axis=1)
    value = scaled_fp8(tensor, scale, (2, 32))
    assert np.array_equal(value.make().view(np.float32).reshape(4, 64), wanted, equal_nan=True)
    assert value.in_pieces is not None
    assert np.array_equal(decode_piece(value.in_pieces.format, value.in_pieces.finders[0](), 0, 4), wanted, equal_nan=True)


@pytest.mark.contract("FILE-HF-7")
def test_experts_with_the_rows_of_x_first_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Llama 4, gate and up in one tensor: nothing is put together, and the numbers are those of the GGUF file."""
    path = write_checkpoint("llama4-f32", tmp_path)
    loaded = aprgraph.load(path)
    model: Model = loaded.model
    assert isinstance(model.file, Checkpoint)
    whole = {info.name: model.file.tensor_bytes(info).copy() for info in model.file.tensors.values() if info.in_pieces is not None}
    assert {name.partition(".ffn_")[2] for name in whole} == {"gate_exps.weight", "up_exps.weight", "down_exps.weight"}
    mapped = np.frombuffer(model.file._files[0].mapped.mapping, np.uint8)
    for node in loaded.graph:
        found = pieces_in_file(model, node) if node.op == "weight" else None
        if found is None:
            continue
        assert node.attr_str("layout") == "f32_columns"
        held = weight_in_memory(model, node)
        assert mapped.ctypes.data <= held.span.ctypes.data + held.places[0, 0] < mapped.ctypes.data + mapped.size
        info = model.tensor(node.attr_str("tensor"))
        wanted = whole[info.name].reshape(-1).view(np.float32).reshape(info.dims)
        assert np.array_equal(decode_weight(model, node).astype(np.float32), wanted), node.name
        one = DecodedWeights(model).read(node, loaded.graph.users(node.name)[0])
        assert np.array_equal(np.asarray(one[1]).astype(np.float32), wanted[1])
        for start in (0, 1, info.nbytes // 3, info.nbytes - 5):
            into = np.empty(min(info.nbytes - start, info.nbytes // 2 + 3), np.uint8)
            model.file.read(info, start, into)
            assert np.array_equal(into, whole[info.name].reshape(-1)[start : start + into.size]), info.name
    made = Checkpoint.tensor_bytes
    monkeypatch.setattr(Checkpoint, "tensor_bytes", lambda source, info: (never if info.in_pieces else made)(source, info))
    logits = loaded.compile(directory=tmp_path / "x.aprg").logits(TOKENS, positions="all")
    ours = aprgraph.load(gguf_of("llama4-f32")).compile("reference", directory=tmp_path / "y.aprg").logits(TOKENS, positions="all")
    assert nmse(logits, ours) < 1e-11

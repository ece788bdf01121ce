"""Weights that a checkpoint has in pieces are read where they lie: expert by expert, in several files, with scales elsewhere."""

from __future__ import annotations

import json
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
from aprgraph.graph.weight_pieces import decode_piece, packed
from aprgraph.runtime.decoded_weights import DecodedWeights, decode_weight
from aprgraph.runtime.kernel_values import pieces_in_file, weight_in_memory
from tests.graph.test_checkpoint_files import in_shards
from tests.graph.test_checkpoint_files import packed as packed_file
from tests.support.checkpoints import CHECKPOINTS
from tests.support.golden import nmse

Tensors = dict[str, tuple[str, list[int], bytes]]
TOKENS = [3, 1, 4, 1, 5]
HIDDEN, HEADS, HEAD, FFN, EXPERTS, VOCABULARY, BLOCK = 48, 2, 16, 32, 4, 64, (16, 32)


def fp8(values: np.ndarray, kind: str, groups: tuple[int, int], step: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers in FP8, their scales, and what ml_dtypes and NumPy say that both are together, in f32."""
    scales = np.random.default_rng(4).uniform(0.01, 0.02, groups).astype(np.float32)
    over = np.repeat(np.repeat(scales, step[0], axis=0), step[1], axis=1)[: values.shape[0], : values.shape[1]]
    numbers = (values / over).astype({"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}[kind])
    return numbers, scales, numbers.astype(np.float32) * over


def checkpoints(folder: Path) -> tuple[Path, Path]:
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
        (folder / name / "model.safetensors").write_bytes(packed_file(tensors))
    for shard in in_shards(folder / "fp8", 3):
        pad_header(folder / "fp8" / shard)
    return folder / "fp8", folder / "f32"


def pad_header(path: Path) -> None:
    """Let the data begin at a multiple of 8 bytes, as the safetensors package does."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = content[8 : 8 + length] + b" " * (-length % 8)
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + content[8 + length :])


def never(_source: Checkpoint, tensor: Any) -> Any:
    raise AssertionError(f"{tensor.name} was put together in memory")


@pytest.mark.contract("FILE-HF-7")
def test_fp8_and_experts_one_by_one_give_the_bits_of_their_f32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits compiled, and the same numbers in float64 but for the rounding of the products; nothing is put together."""
    quantised, plain = (aprgraph.load(path) for path in checkpoints(tmp_path))
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
    path, _ = checkpoints(tmp_path)
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

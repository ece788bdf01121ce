"""Writes `.apr` files of version 2 by the layout that paiml/aprender documents, from nothing or from a GGUF file.

The sizes and checksums of that project's own fixtures hold this writer to it (tests/graph/test_apr_layout.py).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

ROW_MAJOR = 0x400
_NAMES = {
    "embedding_length": "hidden_size", "block_count": "num_layers", "attention.head_count": "num_heads",
    "attention.head_count_kv": "num_kv_heads", "feed_forward_length": "intermediate_size", "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings", "rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim", "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_OF_CONFIG = {
    "hidden_size": "hidden_size", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads", "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings", "rms_norm_eps": "rms_norm_eps", "head_dim": "head_dim",
    "num_experts": "num_experts", "num_local_experts": "num_experts", "num_experts_per_tok": "num_experts_per_tok",
    "moe_intermediate_size": "moe_intermediate_size",
}  # fmt: skip
_TOKENIZER = {
    "tokens": "vocabulary", "merges": "merges", "scores": "scores", "token_type": "token_type", "pre": "pre_type", "model": "model",
    "bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "add_bos_token": "add_bos_token",
}  # fmt: skip


@dataclass
class AprTensor:
    """Code of the dtype, dims as they are written, bytes."""

    code: int
    dims: tuple[int, ...]
    data: bytes


@dataclass
class AprBytes:
    """A file as its parts; what is None is the true one. ``padded``: to 64 bytes, as `apr` writes today."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, AprTensor] = field(default_factory=dict)
    magic: bytes = b"APR\0"
    version: tuple[int, int] = (2, 0)
    flags: int = ROW_MAJOR
    checksum: int | None = None
    footer: bool = True
    padded: bool = True
    is_sorted: bool = True
    count: int | None = None
    raw_metadata: bytes | None = None

    def pack(self) -> bytes:
        """The whole file."""
        names = sorted(self.tensors) if self.is_sorted else list(self.tensors)
        metadata = json.dumps(self.metadata, separators=(",", ":"), ensure_ascii=False).encode()
        metadata = metadata if self.raw_metadata is None else self.raw_metadata
        index, data = b"", b""
        for name in names:
            tensor = self.tensors[name]
            index += struct.pack("<H", len(name.encode())) + name.encode() + struct.pack("<BB", tensor.code, len(tensor.dims))
            index += struct.pack(f"<{len(tensor.dims)}QQQ", *tensor.dims, len(data), len(tensor.data))
            data += self._pad(tensor.data)
        body = self._pad(metadata)
        offsets = 64, len(metadata), 64 + len(body), 64 + len(body + self._pad(index))
        head = self.magic + bytes(self.version) + struct.pack("<H", self.flags)
        head += struct.pack("<IQIQQ", len(names) if self.count is None else self.count, *offsets)
        checksum = zlib.crc32(head + bytes(20)) if self.checksum is None else self.checksum
        whole = head + struct.pack("<I", checksum) + bytes(20) + body + self._pad(index) + data
        return whole + (struct.pack("<I", zlib.crc32(whole)) if self.footer else b"")

    def _pad(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % 64) if self.padded else data


def floats(values: npt.ArrayLike) -> AprTensor:
    """A tensor of F32."""
    array = np.asarray(values, "<f4")
    return AprTensor(0, array.shape, array.tobytes())


def from_gguf(path: Path) -> AprBytes:
    """What `apr` makes of a GGUF file of the llama family: names and blocks as they are there, matrices' dims reversed.

    Blocks that it has no code for become F32.
    """
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = values["general.architecture"]
    file = AprBytes({"model_type": architecture, "architecture": architecture})
    file.metadata |= {apr: values[f"{architecture}.{key}"] for key, apr in _NAMES.items() if f"{architecture}.{key}" in values}
    for name in ("rope_theta", "rms_norm_eps"):  # as short as float32 allows
        if name in file.metadata:
            file.metadata[name] = float(str(np.float32(file.metadata[name])))
    tokens = {apr: values[f"tokenizer.ggml.{key}"] for key, apr in _TOKENIZER.items() if f"tokenizer.ggml.{key}" in values}
    file.metadata |= {f"tokenizer.{name}": value for name, value in tokens.items()}
    if "tokenizer.chat_template" in values:
        file.metadata["chat_template"] = values["tokenizer.chat_template"]
    for tensor in reader.tensors:
        file.tensors[tensor.name] = _tensor(tensor)
    return file


def from_checkpoint(folder: Path) -> AprBytes:
    """What `apr` makes of a checkpoint: names, rows and values as they are there, a tied head as a copy."""
    config = json.loads((folder / "config.json").read_bytes())
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    file = AprBytes({"model_type": "auto", "architecture": config["model_type"].removesuffix("_text")})
    file.metadata |= {apr: config[name] for name, apr in _OF_CONFIG.items() if config.get(name) is not None}
    rope = config.get("rope_parameters") or config
    file.metadata["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
    codes = {"F32": 0, "F16": 1, "BF16": 30}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            file.tensors[name] = AprTensor(codes[entry["dtype"]], tuple(entry["shape"]), raw[start + begin : start + end])
    if "lm_head.weight" not in file.tensors:
        file.tensors["lm_head.weight"] = file.tensors["model.embed_tokens.weight"]
    return file


def _tensor(tensor: gguf.ReaderTensor) -> AprTensor:
    ggml = tuple(int(dim) for dim in tensor.shape)
    dims = ggml if len(ggml) == 3 else ggml[::-1]
    kinds = GGMLQuantizationType
    codes: Mapping[int, int] = {kinds.F32: 0, kinds.F16: 1, kinds.BF16: 30, kinds.Q4_K: 12, kinds.Q6_K: 14, kinds.Q8_0: 8}
    if tensor.tensor_type in codes:
        return AprTensor(codes[tensor.tensor_type], dims, tensor.data.tobytes())
    return AprTensor(0, dims, gguf.dequantize(tensor.data, tensor.tensor_type).astype("<f4").tobytes())

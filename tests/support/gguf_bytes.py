"""GGUF files byte by byte, for what the `gguf` package refuses to write: damage, contradictions, odd types."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LAYOUT = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}


def text(value: str | bytes) -> bytes:
    """A string: its length in 64 bits, then its bytes."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: object) -> bytes:
    """One value of a kind that is not an array."""
    return text(value) if kind == STRING else struct.pack(LAYOUT[kind], value)  # type: ignore[arg-type]


def array(kind: int, values: list[object], count: int | None = None) -> bytes:
    """An array; ``count`` is what its header says, which need not be true."""
    return struct.pack("<IQ", kind, len(values) if count is None else count) + b"".join(scalar(kind, value) for value in values)


@dataclass
class RawTensor:
    """An entry of the tensor list: dims outermost first, ggml's type number, offset (None: behind the tensors before)."""

    dims: tuple[int, ...]
    kind: int = 0
    offset: int | None = None
    nbytes: int | None = None


@dataclass
class RawGGUF:
    """A file as its parts. ``keys`` maps names to (value type, packed value); counts that are not given are the true ones."""

    keys: dict[str | bytes, tuple[int, bytes]] = field(default_factory=dict)
    tensors: dict[str | bytes, RawTensor] = field(default_factory=dict)
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    key_count: int | None = None
    tensor_count: int | None = None
    extra_keys: bytes = b""
    extra_tensors: bytes = b""

    def set(self, key: str, kind: int, value: object) -> None:
        """Set a key to a value of a kind that is not an array."""
        self.keys[key] = (kind, scalar(kind, value))

    def header(self) -> bytes:
        """Everything before the tensor data, without the padding."""
        key_count = len(self.keys) if self.key_count is None else self.key_count
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        parts = [self.magic, struct.pack("<IQQ", self.version, tensor_count, key_count)]
        parts += [text(key) + struct.pack("<I", kind) + packed for key, (kind, packed) in self.keys.items()]
        parts.append(self.extra_keys)
        position = 0
        for name, tensor in self.tensors.items():
            offset = position if tensor.offset is None else tensor.offset
            parts.append(text(name) + struct.pack("<I", len(tensor.dims)))
            parts.append(struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims[::-1]))
            parts.append(struct.pack("<IQ", tensor.kind, offset))
            position += -(-self._nbytes(tensor) // self.alignment) * self.alignment
        parts.append(self.extra_tensors)
        return b"".join(parts)

    def pack(self) -> bytes:
        """The whole file, its tensors filled with bytes that differ; nothing follows the last tensor."""
        header = self.header()
        padding = b"\0" * (-len(header) % self.alignment)
        sizes = [self._nbytes(tensor) for tensor in self.tensors.values()]
        size = sum(-(-nbytes // self.alignment) * self.alignment for nbytes in sizes[:-1]) + sum(sizes[-1:])
        return header + padding + (bytes(range(60)) * (size // 60 + 1))[:size]

    @staticmethod
    def _nbytes(tensor: RawTensor) -> int:
        if tensor.nbytes is not None:
            return tensor.nbytes
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        return elements * 4


def small_llama(layers: int = 1) -> RawGGUF:
    """A whole llama model of 4 tokens, 8 hidden elements, 2 heads over 1 KV head, all F32: about 3 KB for one layer."""
    file = RawGGUF()
    file.set("general.architecture", STRING, "llama")
    for key, value in {
        "block_count": layers, "context_length": 16, "embedding_length": 8, "feed_forward_length": 12,
        "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 4,
    }.items():  # fmt: skip
        file.set(f"llama.{key}", U32, value)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("llama.rope.freq_base", F32, 10000.0)
    file.tensors["token_embd.weight"] = RawTensor((4, 8))
    for layer in range(layers):
        for name, dims in {
            "attn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8),
            "ffn_norm": (8,), "ffn_gate": (12, 8), "ffn_up": (12, 8), "ffn_down": (8, 12),
        }.items():  # fmt: skip
            file.tensors[f"blk.{layer}.{name}.weight"] = RawTensor(dims)
    file.tensors["output_norm.weight"] = RawTensor((8,))
    return file

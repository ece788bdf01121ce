"""Our GGUF reader against the `gguf` package's."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.sources.gguf_file import GGUFFile, LazyArray
from tests.support.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    RawGGUF,
    RawTensor,
    array,
    small_llama,
)
from tests.support.tiny import FORMATS

Tiny = Callable[..., Path]


def decoded(value: object) -> object:
    """A metadata value of ours in the form in which the witness gives it: arrays as lists, strings as str."""
    if not isinstance(value, LazyArray):
        return value
    values = value.values()
    assert len(values) == len(value)
    return [element.decode() if isinstance(element, bytes) else element for element in values]


def assert_same_as_witness(path: Path) -> GGUFFile:
    ours, witness = GGUFFile(path), gguf.GGUFReader(path)
    fields = {name: field for name, field in witness.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        value, expected = decoded(ours.metadata[key]), field.contents()
        assert value == expected, key
        assert type(value) is type(expected), key
    assert list(ours.tensors) == [tensor.name for tensor in witness.tensors]
    for tensor in witness.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.dims == tuple(int(dim) for dim in tensor.shape[::-1])
        assert (mine.format.name, mine.offset, mine.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        assert np.array_equal(ours.tensor_bytes(mine).reshape(-1), tensor.data.reshape(-1).view(np.uint8))
    assert ours.data_start == witness.data_offset
    assert ours.alignment == witness.alignment
    return ours


@pytest.mark.parametrize("fmt", FORMATS)
def test_tiny_models_of_every_format(tiny_model: Tiny, fmt: str) -> None:
    file = assert_same_as_witness(tiny_model(format=fmt, layers=1))
    assert file.tensors["blk.0.ffn_up.weight"].format.name == fmt


@pytest.mark.parametrize(
    "options",
    [
        {"tied": True},
        {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "rope_freqs": True},
        {"heads": 3, "kv_heads": 1, "head_size": 10, "hidden": 36, "ffn": 20, "vocabulary": 273, "alignment": 128},
        {"tokenizer": False, "vocabulary": 1, "hidden": 8, "ffn": 4, "heads": 1, "kv_heads": 1, "layers": 1, "alignment": 8},
        {"formats": {"token_embd.weight": "Q8_0", "ffn_down.weight": "Q4_1", "attn_norm.weight": "F16"}},
    ],
)
def test_tiny_models_of_every_shape(tiny_model: Tiny, options: dict[str, object]) -> None:
    assert_same_as_witness(tiny_model(**options))


EXTREMES: dict[int, list[object]] = {
    U8: [0, 255], I8: [-128, 127], U16: [0, 65535], I16: [-32768, 32767], U32: [0, 2**32 - 1], I32: [-(2**31), 2**31 - 1],
    U64: [0, 2**64 - 1], I64: [-(2**63), 2**63 - 1], F32: [-0.0, 3.4028234663852886e38, float("inf")], F64: [5e-324, -1e308],
    BOOL: [False, True], STRING: ["", "blanks and\nlines", "ünïcödé 模型 🙂", "\0nul"],
}  # fmt: skip


def test_every_metadata_type_alone_and_in_arrays(tmp_path: Path) -> None:
    file = RawGGUF()
    for kind, values in EXTREMES.items():
        for index, value in enumerate(values):
            file.set(f"scalar.{kind}.{index}", kind, value)
        file.keys[f"array.{kind}"] = (ARRAY, array(kind, values))
        file.keys[f"array.one.{kind}"] = (ARRAY, array(kind, values[:1]))
    file.keys["ключ"] = (U32, struct.pack("<I", 7))
    path = tmp_path / "types.gguf"
    path.write_bytes(file.pack())
    assert_same_as_witness(path)


def test_empty_arrays(tmp_path: Path) -> None:
    """Not compared: the witness has no contents for an empty array."""
    file = small_llama()
    for kind in EXTREMES:
        file.keys[f"empty.{kind}"] = (ARRAY, array(kind, []))
    path = tmp_path / "empty.gguf"
    path.write_bytes(file.pack())
    metadata = GGUFFile(path).metadata
    assert [metadata.array(f"empty.{kind}").values() for kind in EXTREMES] == [[]] * len(EXTREMES)


def test_an_empty_array_as_the_last_bytes_of_a_file(tmp_path: Path) -> None:
    file = RawGGUF(keys={"empty": (ARRAY, array(U32, []))})
    path = tmp_path / "end.gguf"
    path.write_bytes(file.header())
    assert GGUFFile(path).metadata.array("empty").values() == []


def test_tensors_of_one_to_four_dims_in_any_order_in_the_file(tmp_path: Path) -> None:
    file = RawGGUF(alignment=32)
    file.tensors = {
        "d": RawTensor((2, 3, 5, 7), offset=1024),
        "a": RawTensor((7,), offset=0),
        "c": RawTensor((3, 5, 7), offset=512),
        "b": RawTensor((5, 7), offset=160),
    }
    path = tmp_path / "dims.gguf"
    path.write_bytes(file.pack() + bytes(2048))
    ours = assert_same_as_witness(path)
    assert [tensor.dims for tensor in ours.tensors.values()] == [(2, 3, 5, 7), (7,), (3, 5, 7), (5, 7)]


def test_version_2_reads_as_version_3(tmp_path: Path) -> None:
    paths = []
    for version in (2, 3):
        file = small_llama()
        file.version = version
        paths.append(tmp_path / f"v{version}.gguf")
        paths[-1].write_bytes(file.pack())
    two, three = (assert_same_as_witness(path) for path in paths)
    assert (two.version, three.version) == (2, 3)
    assert two.tensors == three.tensors


def test_strings_that_are_not_utf8_are_kept_in_arrays_and_replaced_elsewhere(tmp_path: Path) -> None:
    file = small_llama()
    file.set("broken", STRING, b"\xff\xfe")
    file.keys["tokens"] = (ARRAY, array(STRING, [b"\xff", b"\xe2\x82"]))
    path = tmp_path / "bytes.gguf"
    path.write_bytes(file.pack())
    metadata = GGUFFile(path).metadata
    assert metadata["broken"] == "\ufffd\ufffd"
    assert metadata.array("tokens").values() == [b"\xff", b"\xe2\x82"]


def test_tensor_bytes_are_not_a_copy_and_cannot_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_llama().pack())
    before = path.read_bytes()
    file = GGUFFile(path)
    first, second = (file.tensor_bytes(file.tensors["output_norm.weight"]) for _ in range(2))
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] ^= 255
    assert path.read_bytes() == before


def test_a_file_larger_than_memory_and_swap_opens(tmp_path: Path) -> None:
    """The system lets a mapping that it may have to copy be only as large as memory and swap; one that is read-only is not counted."""
    file = small_llama()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()}
    rows = (kilobytes["MemTotal"] + kilobytes["SwapTotal"] + (1 << 20)) // 4 * 128
    file.tensors = {"token_embd.weight": RawTensor((rows, 8), nbytes=0)}
    path = tmp_path / "large.gguf"
    path.write_bytes(file.pack())
    os.truncate(path, len(file.pack()) + rows * 32)
    assert path.stat().st_blocks < 100, "the test's own file takes room on the disk"
    tensor = GGUFFile(path).tensors["token_embd.weight"]
    assert not GGUFFile(path).tensor_bytes(tensor)[-1].any()


def test_fingerprint_names_the_content(tmp_path: Path) -> None:
    def fingerprint(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return GGUFFile(tmp_path / name).fingerprint()

    data = small_llama().pack()
    same, moved = fingerprint("a.gguf", data), fingerprint("b.gguf", data)
    other_data, longer = fingerprint("c.gguf", data[:-1] + b"\xff"), fingerprint("d.gguf", data + b"\0")
    file = small_llama()
    file.set("llama.rope.freq_base", F32, 10001.0)
    assert same == moved
    assert len({same, other_data, longer, fingerprint("e.gguf", file.pack())}) == 4
    assert len(fingerprint("f.gguf", RawGGUF().pack())) == 64


@pytest.mark.contract("ERR-MODEL-1")
def test_a_block_type_that_is_not_decoded_is_named_with_those_that_are(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["blk.0.attn_q.weight"].kind = gguf.GGMLQuantizationType.Q8_1
    file.tensors["blk.0.attn_q.weight"].nbytes = 256
    path = tmp_path / "model.gguf"
    path.write_bytes(file.pack())
    message = r"model\.gguf: tensor 'blk\.0\.attn_q\.weight' has the block type Q8_1 \(9\).*F32, F16, BF16"
    with pytest.raises(UnsupportedModelError, match=message):
        GGUFFile(path)

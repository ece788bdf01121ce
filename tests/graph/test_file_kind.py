"""What a file is that is no whole model, in the words of every command."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from aprgraph.graph.errors import ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.file_kind import kind_of_bytes, kind_of_folder
from aprgraph.graph.sources.gguf_file import GGUFFile
from tests.support.gguf_bytes import STRING, U16, RawGGUF, RawTensor, array, small_llama


def _zip(name: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(name, b"content")
    return memory.getvalue()


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "zeros": (bytes(4096), "begins with zeros"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "web-page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "safetensors": (struct.pack("<Q", 60) + b'{"__metadata__":{"format":"pt"}}', "convert_hf_to_gguf"),
    "pytorch": (_zip("archive/data.pkl"), "a PyTorch checkpoint"),
    "zip": (_zip("model.gguf"), "unpack it"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(20), "gunzip"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "unzstd"),
    "tar": (b"model.gguf" + bytes(247) + b"ustar\0" + bytes(300), "tar -xf"),
    "ggml": (b"lmgg" + bytes(20), "whisper"),
    "ggjt": (b"tjgg\3\0\0\0" + bytes(20), "before GGUF"),
    "ggla": (b"algg\1\0\0\0" + bytes(20), "before GGUF"),
    "imatrix": (struct.pack("<ii", 210, 19) + b"blk.0.attn_k.weight" + bytes(64), "importance matrix"),
    "aprt": (b"APRT" + bytes(8), "one tensor of a trace"),
    "apr-1": (b"APR1" + bytes(60), "Whisper"),
    "aprn": (b"APRN" + bytes(60), "aprender"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(40), "gguf_convert_endian"),
    "gguf-1": (b"GGUF\1\0\0\0" + bytes(40), "version 1"),
    "text": (b"Invalid username or password.\n", "begins with 'Invalid username or password.\\n'"),
    "npy": (b"\x93NUMPY\1\0" + bytes(20), "NumPy"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "pickle": (pickle.dumps({"w": 1}, protocol=2), "pickle"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x03" + bytes(20), "ONNX"),
    "json": (b'{"error":"Invalid username or password."}', "JSON text"),
}


@pytest.mark.contract("CHECK-KIND-1")
@pytest.mark.parametrize("name", CONTENTS)
def test_contents_that_are_not_gguf(tmp_path: Path, name: str) -> None:
    content, words = CONTENTS[name]
    kind = kind_of_bytes(content)
    assert kind is not None
    assert kind.name == name
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a GGUF file but |this is a ") as caught:
        GGUFFile(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("head", [b"GGUF" + bytes(20), b"G", b"GGML", b"\x01\x02\x03\x04 something", b"hello", b"\x80", "größer".encode()])
def test_what_nobody_knows_is_not_guessed(head: bytes) -> None:
    assert kind_of_bytes(head) is None


def _keys(**values: str) -> RawGGUF:
    file = small_llama()
    for key, value in values.items():
        file.set(key.replace("__", "."), STRING, value)
    return file


def _lora() -> RawGGUF:
    file = _keys(general__type="adapter", adapter__type="lora", general__base_model__0__name="Big\nOne")
    file.tensors = {"blk.0.attn_q.weight.lora_a": RawTensor((4, 8)), "blk.0.attn_q.weight.lora_b": RawTensor((8, 4))}
    return file


def _vocabulary() -> RawGGUF:
    file = small_llama()
    file.keys["tokenizer.ggml.tokens"] = (9, array(STRING, ["a", "b"]))
    file.tensors = {}
    return file


def _projector() -> RawGGUF:
    file = _keys(general__type="mmproj", general__architecture="clip")
    file.tensors = {"v.blk.0.attn_q.weight": RawTensor((4, 4))}
    return file


def _control_vector() -> RawGGUF:
    file = _keys(general__architecture="controlvector")
    file.tensors = {"direction.1": RawTensor((8,))}
    return file


def _part(number: int, count: int) -> RawGGUF:
    file = small_llama()
    file.set("split.no", U16, number)
    file.set("split.count", U16, count)
    return file


GGUF: dict[str, tuple[RawGGUF, str]] = {
    "lora": (_lora(), r"this is a LoRA adapter for 'Big\\nOne'; .*llama-export-lora"),
    "vocabulary": (_vocabulary(), "this is a vocabulary alone"),
    "mmproj": (_projector(), r"this is a projector of images or sound \(mmproj\); it goes beside a text model"),
    "control vector": (_control_vector(), "this is a control vector"),
    "imatrix": (_keys(general__type="imatrix"), "this is an importance matrix"),
    "diffusion": (_keys(general__architecture="flux"), "this is the network of an image or video diffusion model .*'flux'"),
    "encoder": (_keys(general__architecture="t5encoder"), "this is a text encoder"),
}


@pytest.mark.contract("CHECK-KIND-1")
@pytest.mark.parametrize("name", GGUF)
def test_gguf_files_that_are_no_whole_model(tmp_path: Path, name: str) -> None:
    file, message = GGUF[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(file.pack())
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_no_such_kind(tmp_path: Path) -> None:
    """Also one of a single part, which is whole."""
    path = tmp_path / "m.gguf"
    path.write_bytes(_part(0, 1).pack())
    load_model(path)


@pytest.mark.contract("CHECK-KIND-1")
def test_a_part_under_another_name_is_no_whole_model(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(_part(1, 3).pack())
    message = r"this is part 2 of 3 of a model in several files \(split.count\); .*llama-gguf-split --merge"
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.contract("CHECK-KIND-1")
def test_parts_that_are_not_there_are_named(tmp_path: Path) -> None:
    first, second = (tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 3))
    first.write_bytes(_part(0, 3).pack())
    second.write_bytes(_part(2, 3).pack())
    with pytest.raises(ModelFileError, match=r"part 1 of 3 .*big-00002-of-00003\.gguf is not beside it"):
        load_model(first)
    (tmp_path / "big-00002-of-00003.gguf").write_bytes(_part(1, 3).pack())
    with pytest.raises(ModelFileError, match="part 3 of 3") as caught:
        load_model(second)
    assert "beside" not in str(caught.value)


@pytest.mark.parametrize(("names", "kind"), [
    (["config.json", "model-00001-of-00002.safetensors"], "hf-folder"),
    (["a.gguf", "config.json"], "folder"),
    (["adapter_config.json", "adapter_model.safetensors"], "lora"),
    (["adapter_config.json", "config.json", "model-00001-of-00002.safetensors"], "hf-folder"),
    (["genai_config.json", "config.json", "model.onnx", "model.onnx.data"], "onnx"),
    (["params.json", "consolidated.safetensors"], "consolidated"),
    (["params.json", "consolidated.00.pth"], "consolidated"),
    (["trace.json"], "trace"),
    (["layer-0", "x.gguf"], "trace"),
    (["artifact.json"], "artifact"),
    ([], None),
    (["notes.txt"], None),
])  # fmt: skip
def test_folders(tmp_path: Path, names: list[str], kind: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = kind_of_folder(tmp_path)
    assert (found and found.name) == kind

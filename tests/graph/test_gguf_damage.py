"""Damaged and contradictory GGUF files: one clear error each, never another exception, never an allocation."""

from __future__ import annotations

import errno
import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import NoReturn

import pytest

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.gguf_file import GGUFFile
from tests.support.damage import failure, with_odd_keys, write
from tests.support.gguf_bytes import ARRAY, STRING, U8, U32, RawGGUF, RawTensor, array, small_llama

HUGE = (2**31, 2**32, 2**62, 2**63, 2**64 - 1)


def test_the_small_model_that_the_others_damage_is_sound(tmp_path: Path) -> None:
    assert len(build_graph(load_model(write(tmp_path, small_llama())))) > 20


# -- what is not a file ---------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in str(failure(tmp_path / "absent.gguf"))


def test_directory(tmp_path: Path) -> None:
    assert "an empty folder; give the path of a .gguf file" in str(failure(tmp_path))


def test_file_as_a_directory(tmp_path: Path) -> None:
    assert "Not a directory" in str(failure(write(tmp_path, small_llama()) / "model.gguf"))


def test_pipe_is_refused_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_: object, **__: object) -> NoReturn:
        raise AssertionError("opening a pipe blocks until somebody writes")

    os.mkfifo(tmp_path / "pipe.gguf")
    monkeypatch.setattr(Path, "open", blocked)
    assert "not a regular file" in str(failure(tmp_path / "pipe.gguf"))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised here, because root may read everything."""

    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = write(tmp_path, small_llama())
    monkeypatch.setattr(os, "open", denied)
    assert "Permission denied" in str(failure(path))


def test_path_with_a_nul() -> None:
    with pytest.raises(ModelFileError, match=r"'a\\x00b.gguf': cannot be opened: .*embedded null"):
        GGUFFile("a\0b.gguf")


@pytest.mark.parametrize("head", [b"", b"G", b"GGU", b"GGML", b"PK\3\4", b'{"a"', b"GGUf" + bytes(64)])
def test_other_contents(tmp_path: Path, head: bytes) -> None:
    assert "not a GGUF file" in str(failure(write(tmp_path, head)))


# -- truncation -----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("ERR-GGUF-1")
def test_truncated_at_every_byte(tmp_path: Path) -> None:
    path = write(tmp_path, with_odd_keys())
    size = path.stat().st_size
    build_graph(load_model(path))
    for length in reversed(range(size)):
        os.truncate(path, length)
        with pytest.raises(ModelFileError) as caught:
            GGUFFile(path)
        assert str(caught.value).startswith(f"{path}: "), length
        assert re.search("truncated|not a GGUF file", str(caught.value)), (length, str(caught.value))


@pytest.mark.parametrize("cut", range(1, 60))
def test_truncated_in_an_array_of_strings_that_nothing_follows(tmp_path: Path, cut: int) -> None:
    """With no tensors, no later read would notice that entries of the last array are missing."""
    file = RawGGUF(keys={"tokens": (ARRAY, array(STRING, ["x" * 30, "y" * 20, "z" * 10]))})
    assert "truncated in the value of 'tokens'" in str(failure(write(tmp_path, file.header()[:-cut])))


def test_padding_after_the_last_tensor_is_not_needed(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["output_norm.weight"] = file.tensors.pop("output_norm.weight")
    data = file.pack()
    for padding in (0, 1, 31, 32):
        build_graph(load_model(write(tmp_path, data + bytes(padding))))


# -- the header ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 4, 2**31, 2**32 - 1])
def test_version(tmp_path: Path, version: int) -> None:
    file = small_llama()
    file.version = version
    message = str(failure(write(tmp_path, file)))
    assert f"GGUF version {version}, expected 2 or 3" in message


def test_big_endian(tmp_path: Path) -> None:
    file = small_llama()
    file.version = 3 << 24
    assert "big-endian" in str(failure(write(tmp_path, file)))


@pytest.mark.contract("ERR-COUNTS-1")
@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize(
    "where", ["keys", "tensors", "key length", "string length", "name length", "array", "strings", "first dim", "last dim"]
)
def test_huge_counts_are_refused_without_allocating(tmp_path: Path, where: str, count: int) -> None:
    file, packed = small_llama(), struct.pack("<Q", count)
    if where == "keys":
        file.key_count = count
    elif where == "tensors":
        file.tensor_count = count
    elif where == "key length":
        file.key_count, file.extra_keys = len(file.keys) + 1, packed
    elif where == "string length":
        file.keys["name"] = (STRING, packed)
    elif where == "name length":
        file.tensor_count, file.extra_tensors = len(file.tensors) + 1, packed
    elif where in ("array", "strings"):
        kind = U8 if where == "array" else STRING
        file.keys["values"] = (ARRAY, array(kind, [], count))
    else:
        dims = (count, 8) if where == "first dim" else (4, count)
        file.tensors["token_embd.weight"] = RawTensor(dims, nbytes=128)
    path = write(tmp_path, file)
    tracemalloc.start()
    try:
        error = failure(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error, ModelFileError)
    assert peak < 1 << 20


@pytest.mark.contract("ERR-COUNTS-1")
def test_every_dim_huge(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["token_embd.weight"] = RawTensor((2**64 - 1,) * 4, nbytes=128)
    assert "does not fit into a file of" in str(failure(write(tmp_path, file)))


@pytest.mark.contract("ERR-COUNTS-1")
def test_dims_whose_product_overflows_64_bits_to_a_small_number(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["token_embd.weight"] = RawTensor((2**32, 2**32 + 8), nbytes=128)
    assert "does not fit into a file of" in str(failure(write(tmp_path, file)))


def test_a_name_longer_than_ggml_has_room_for(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["x" * 64] = RawTensor((8,))
    assert "has 64 bytes, expected at most 63" in str(failure(write(tmp_path, file)))


def test_a_key_longer_than_the_format_allows(tmp_path: Path) -> None:
    file = small_llama()
    file.set("x" * 65536, U8, 1)
    assert "has 65536 bytes, expected at most 65535" in str(failure(write(tmp_path, file)))


@pytest.mark.contract("ERR-COUNTS-1")
@pytest.mark.parametrize(("what", "count", "most"), [("metadata keys", 65_537, 65_536), ("tensors", 131_073, 131_072)])
def test_more_keys_or_tensors_than_any_model_has(tmp_path: Path, what: str, count: int, most: int) -> None:
    """They are all there; a million took a minute."""
    file = small_llama()
    if what == "tensors":
        file.tensors |= {f"t{index}": RawTensor((1,)) for index in range(count - len(file.tensors))}
    else:
        file.keys |= {f"k{index}": (U32, bytes(4)) for index in range(count - len(file.keys))}
    assert str(failure(write(tmp_path, file))).endswith(
        f"has {count} {what}, expected at most {most}; the file is damaged, or made to take long"
    )


@pytest.mark.contract("ERR-COUNTS-1")
def test_a_text_of_gigabytes(tmp_path: Path) -> None:
    """It is refused by its length; the file has no blocks on the disk for it."""
    file = small_llama()
    file.keys["long"] = (STRING, struct.pack("<Q", 1 << 31))
    path = write(tmp_path, file)
    os.truncate(path, 3 << 30)
    assert "the value of 'long' has 2147483648 bytes, expected at most 268435456" in str(failure(path))

"""Dumps as text and as tensors of ONNX: read where nothing is lost, refused with what to do where something is."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import run_cli

NORM = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
IDS = [3, 1, 4, 1, 5]


def _read(path: Path) -> tuple[Any, Any]:
    """The one tensor of a dump, and its tokens."""
    trace = Trace.open(path)
    assert trace.info is not None
    return trace["layer0.attn_norm"], list(trace.info.tokens)


# -- text ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize("document", [
    {"layer0.attn_norm": NORM.tolist(), "tokens": IDS},
    {"layer0": {"attn_norm": NORM.tolist()}, "model": "x", "tokens": IDS},
    {"input_ids": [IDS], "layer0.attn_norm": {"shape": [1, 5, 12], "dtype": "float32", "data": NORM.ravel().tolist()}},
    {"layer0.attn_norm": NORM.tolist(), "tokens": IDS, "notes": ["a", None, True], "empty": []},
])  # fmt: skip
def test_lists_of_json_are_arrays(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(document))
    found, tokens = _read(path)
    assert np.array_equal(found, NORM)
    assert tokens == IDS


def test_nan_and_infinities_of_json_are_values(tmp_path: Path) -> None:
    values = NORM.copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    (tmp_path / "layer0.attn_norm.json").write_text(json.dumps(values.tolist()))
    assert np.array_equal(_read(tmp_path / "layer0.attn_norm.json")[0], values, equal_nan=True)


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("ending", "options"), [
    ("txt", {}), ("csv", {"delimiter": ","}), ("txt", {"header": "5 x 12"}), ("tsv", {"delimiter": "\t"}), ("txt", {"fmt": "%.9g"}),
])  # fmt: skip
def test_text_of_numpy_is_read(ending: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Also in a folder, beside text that holds no numbers."""
    np.savetxt(tmp_path / f"layer0.attn_norm.{ending}", NORM, **options)
    np.savetxt(tmp_path / "tokens.txt", IDS, fmt="%d")
    (tmp_path / "README.txt").write_text("a dump\n")
    (tmp_path / "meta.json").write_text('{"engine": "mine"}')
    found, tokens = _read(tmp_path)
    assert np.array_equal(found, NORM)
    assert tokens == IDS
    assert np.array_equal(Trace.open(tmp_path / f"layer0.attn_norm.{ending}")["layer0.attn_norm"], NORM)


def test_text_beside_arrays_is_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "layer0.attn_norm.npy", NORM)
    np.savetxt(tmp_path / "layer0.ffn_out.txt", NORM)
    trace = Trace.open(tmp_path)
    assert [entry.file for entry in trace.entries] == ["layer0.attn_norm"]


def _rounded(decimals: int) -> str:
    return "\n".join(" ".join(f"{value:.{decimals}f}" for value in row) for row in NORM)


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.txt", str(np.zeros((40, 40))), "is what a program prints of an array, with elements left out where it has `...`; save whole arrays"),
    ("a.txt", "tensor([[0.1, 0.2],\n        [0.3, 0.4]])", "is what a program prints of an array, in a few digits"),
    ("a.txt", "1.5 2.5 3.5\n1.5 ... 3.5\n", "line 2 has `...`, where elements are left out"),
    ("a.txt", "1.5 2.5\n1.5\n", "line 2 has 1 numbers, and the first 2"),
    ("a.txt", "1.5 2.5\n1.5 x\n", "line 2 holds 'x', which is no number"),
    ("a.txt", _rounded(4), "its numbers have at most 5 digits, and float32 has nine"),
    ("a.json", json.dumps(np.round(NORM.astype(float), 4).tolist()), "its numbers have at most 5 digits, and float32 has nine"),
    ("a.json", '{"x": [[1, 2], [3]]}', "array 'x' is no array of numbers: its lists differ in length"),
    ("a.json", '{"x": [[1, 2], [3, "4"]]}', "array 'x' is no array of numbers"),
    ("a.json", '{"x": {"shape": [3], "data": [1, 2]}, "y": [[1]]}', "array 'x' has 2 numbers, and the shape [3]"),
    ("a.json", '{"x": [[1, 2], [3, 4]', "no JSON ("),
    ("a.json", "[[1, 2], [3, 4]]", "is not called as a stage is"),
])  # fmt: skip
def test_text_that_lost_something_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        Trace.open(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    done = run_cli("diff", path, path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.json", '{"error": "no such model"}', "JSON text: a configuration, or a server's error message"),
    ("a.json", '{"eos_token_id": [1, 2]}', "JSON text: a configuration"),
    ("a.txt", "Invalid username or password.", "begins with b'Inva', expected b'APRT'"),
])  # fmt: skip
def test_other_text_is_no_dump(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert message in run_cli("diff", tmp_path / name, tmp_path / name).err


# -- ONNX ---------------------------------------------------------------------------------------------------------------------


def _number(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _field(number: int, value: int | bytes) -> bytes:
    """A field of Protocol Buffers: a number, or bytes behind their count."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + value


def _proto(array: Any, kind: int, name: str, data: bytes) -> bytes:
    return b"".join(_field(1, size) for size in array.shape) + _field(2, kind) + data + _field(8, name.encode())


def _in_ints(array: Any) -> bytes:
    return _field(5, b"".join(map(_number, array.reshape(-1).view(np.uint16).tolist())))


_BF16, _F16 = NORM.astype(ml_dtypes.bfloat16), NORM.astype(np.float16)
_PROTOS: dict[str, tuple[Any, int, bytes]] = {
    "raw": (NORM, 1, _field(9, NORM.tobytes())),
    "floats": (NORM, 1, _field(4, NORM.tobytes())),
    "doubles": (NORM, 11, _field(10, NORM.astype(np.float64).tobytes())),
    "float16 in whole numbers": (_F16, 10, _in_ints(_F16)),
    "bfloat16": (_BF16, 16, _field(9, _BF16.tobytes())),
    "one by one": (NORM, 1, b"".join(_number(4 << 3 | 5) + struct.pack("<f", value) for value in NORM.reshape(-1).tolist())),
}


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize("form", _PROTOS)
def test_a_test_data_set_of_onnx_is_read(form: str, tmp_path: Path) -> None:
    array, kind, data = _PROTOS[form]
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    (folder / "output_0.pb").write_bytes(_proto(array, kind, "layer0.attn_norm", data))
    (folder / "input_0.pb").write_bytes(_proto(np.array([IDS]), 7, "input_ids", _field(7, b"".join(map(_number, IDS)))))
    found, tokens = _read(tmp_path)
    assert np.array_equal(found, array.astype(np.float32))
    assert tokens == IDS
    assert Trace.open(folder / "output_0.pb").entries[0].stage == "attn_norm"


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("content", "message"), [
    (b"\x08\x02hello", "is no TensorProto of ONNX that can be read (it is cut off, or something else)"),
    (_proto(NORM, 1, "x", _field(9, NORM.tobytes()))[:-200], "it is cut off, or something else"),
    (_proto(NORM, 1, "x", _field(9, NORM.tobytes()[4:])), "it has 59 elements, expected 5 x 12"),
    (_proto(NORM, 8, "x", _field(6, b"text")), "its data_type is 8, expected real or whole numbers"),
    (_proto(NORM, 1, "x", _field(13, b"") + _field(14, 1)), "its data lie in another file"),
    (b"", "its data_type is 0"),
    (b"\xff" * 12, "it is cut off, or something else"),
])  # fmt: skip
def test_what_is_no_tensor_of_onnx(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pb").write_bytes(content)
    with pytest.raises(TraceError) as caught:
        Trace.open(tmp_path / "a.pb")
    assert message in str(caught.value)
    assert "onnx.numpy_helper.to_array" in str(caught.value)

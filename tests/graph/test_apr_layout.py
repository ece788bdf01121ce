"""The layout of `.apr` files: what `apr` writes, what is old, what is refused, and what is damaged."""

from __future__ import annotations

import json
import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.apr import compressed as compressed_module
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.check import check
from tests.support.apr_bytes import ROW_MAJOR, AprBytes, AprTensor, floats
from tests.support.cli import fails
from tests.support.compression import lz4_block, provide_unpackers, zstd_frame
from tests.support.damage import attempt

#: The fields that the first fixture spells as null.
_OPTIONAL = re.findall(
    r"\w+",
    """description author source original_format quantization sharding chat_template chat_format special_tokens architecture
    hf_architecture hf_model_type hidden_size num_layers num_heads num_kv_heads vocab_size intermediate_size max_position_embeddings
    rope_theta rope_type rms_norm_eps head_dim num_experts num_experts_per_tok moe_intermediate_size""",
)


def small_apr() -> AprBytes:
    """A whole llama model of one layer: 4 tokens, 8 hidden elements, 2 heads over 1 KV head, all F32."""
    metadata = {
        "model_type": "llama", "architecture": "llama", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1,
        "vocab_size": 4, "intermediate_size": 12, "max_position_embeddings": 16, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    shapes = {
        "token_embd": (4, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8), "blk.0.ffn_norm": (8,), "blk.0.ffn_gate": (12, 8),
        "blk.0.ffn_up": (12, 8), "blk.0.ffn_down": (8, 12),
    }  # fmt: skip
    generator = np.random.default_rng(1)
    return AprBytes(metadata, {f"{name}.weight": floats(generator.standard_normal(shape)) for name, shape in shapes.items()})


def write(folder: Path, file: AprBytes | bytes) -> Path:
    path = folder / "model.apr"
    path.write_bytes(file if isinstance(file, bytes) else file.pack())
    return path


def with_checksum(raw: bytes) -> bytes:
    """A file whose header was changed, with the checksum that it has now."""
    return raw[:40] + struct.pack("<I", zlib.crc32(raw[:40] + raw[44:64])) + raw[44:]


def test_the_writer_gives_the_sizes_of_aprender_s_own_fixtures() -> None:
    """golden_v2.apr and golden_v2_current.apr of paiml/aprender, crates/apr-format/tests/golden_fixtures.rs."""
    metadata = {
        "model_type": "linear_regression", "name": "golden-v2", "license": None, "data_source": None, "data_license": None,
        "version": "0.0.0-golden", "created_at": "1700000000", "total_size": 0, "param_count": 8,
    }  # fmt: skip
    tensors = {"weights": floats([1.0, 2.0, 0.5, -0.5, 4.0, -2.0, 0.25, 8.0]), "bias": floats([0.125])}
    assert len(AprBytes(metadata, tensors).pack()) == 516
    assert len(AprBytes(metadata | dict.fromkeys(_OPTIONAL), tensors).pack()) == 1092


@pytest.mark.contract("FILE-APR-2")
@pytest.mark.parametrize(("change", "notice"), [
    ({"checksum": 0}, "the header has no checksum"),
    ({"footer": False}, "the file has no checksum at its end"),
    ({"padded": False, "footer": False}, "the file has no checksum at its end"),
    ({"padded": False}, "an .apr file says nothing of"),
    ({"is_sorted": False}, "the index of tensors is not sorted by name"),
    ({"flags": 0}, "the file does not say that its tensors are row-major"),
    ({"flags": ROW_MAJOR | 1}, "the file says that it is compressed by LZ4, and is not"),
    ({"magic": b"APR2"}, "an .apr file says nothing of"),
])  # fmt: skip
def test_old_files_are_read_with_a_notice(tmp_path: Path, change: dict[str, object], notice: str) -> None:
    today = open_source(write(tmp_path, small_apr()))
    numbers = {name: today.tensor_bytes(info).copy() for name, info in today.tensors.items()}
    path = write(tmp_path, replace(small_apr(), **change))  # type: ignore[arg-type]
    model = load_model(path)
    assert any(notice in one for one in model.notices), model.notices
    for name, info in model.file.tensors.items():
        found = model.file.tensor_bytes(info)
        assert np.array_equal(found, numbers[name])
        assert found.ctypes.data % 8 == 0
    assert check(path).exit_code == 0


@pytest.mark.contract("FILE-APR-2")
@pytest.mark.parametrize(("raw", "message"), [
    (replace(small_apr(), flags=ROW_MAJOR | 4).pack(), "an encrypted .apr file"),
    (replace(small_apr(), flags=0x800).pack(), "column-major tensors"),
    (replace(small_apr(), flags=ROW_MAJOR | 0x10).pack(), "one of several .apr files"),
    (replace(small_apr(), version=(1, 0)).pack(), r"version 1\.0, expected 2\.0"),
])  # fmt: skip
def test_what_is_not_read_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = write(tmp_path, raw)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    report = check(path)
    assert [finding.rule.code for finding in report.findings] == ["file-kind"]


@pytest.mark.contract("FILE-APR-2")
@pytest.mark.parametrize(("magic", "message"), [(b"APR1", "Whisper"), (b"APRN", "aprender's own kinds")])
def test_other_files_of_apr_are_named(tmp_path: Path, magic: bytes, message: str) -> None:
    path = write(tmp_path, replace(small_apr(), magic=magic))
    with pytest.raises(AprgraphError, match=message):
        load_model(path)
    assert message in check(path).findings[0].text


PACKERS = {"LZ4": (1, lz4_block), "zstd": (2, zstd_frame)}


def compressed(kind: str) -> bytes:
    """The small file as one stream behind its header."""
    flag, pack = PACKERS[kind]
    raw = replace(small_apr(), flags=ROW_MAJOR | flag).pack()
    return raw[:64] + pack(raw[64:])


@pytest.mark.contract("FILE-APR-6")
@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_files_are_unpacked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide_unpackers(monkeypatch)
    wanted = open_source(write(tmp_path, small_apr()))
    numbers = {name: wanted.tensor_bytes(info).copy() for name, info in wanted.tensors.items()}
    path = write(tmp_path, compressed(kind))
    model = load_model(path)
    assert any(re.search(rf"compressed by {kind} and was unpacked to a temporary file \([\d,]+ bytes became", one) for one in model.notices)
    for name, info in model.file.tensors.items():
        assert np.array_equal(model.file.tensor_bytes(info), numbers[name])
        into = np.empty(info.nbytes - 4, np.uint8)
        model.file.read(info, 4, into)
        assert np.array_equal(into, numbers[name].reshape(-1)[4:])
    assert check(path).exit_code == 0


@pytest.mark.contract("FILE-APR-2")
@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_checksum_of_a_file_that_was_compressed_later(
    kind: str, is_damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sum is that of the file with its first header."""
    provide_unpackers(monkeypatch)
    flag, pack = PACKERS[kind]
    plain, header = bytearray(small_apr().pack()), replace(small_apr(), flags=ROW_MAJOR | flag).pack()[:64]
    plain[-100] ^= is_damaged
    report = check(write(tmp_path, header + pack(bytes(plain[64:]))))
    wrong = [finding for finding in report.findings if finding.rule.code == "file-checksum"]
    assert len(wrong) == is_damaged
    if wrong:
        stored = plain[-4:][::-1].hex()
        assert re.fullmatch(
            rf"its last 4 bytes \(unpacked\) say {stored}, the others sum up to [0-9a-f]{{8}}, or to "
            rf"{zlib.crc32(plain[:-4]):08x} with the header of a file that is not compressed", wrong[0].text
        )  # fmt: skip


@pytest.mark.contract("FILE-APR-6")
@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_files_that_are_damaged_or_do_not_fit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide_unpackers(monkeypatch)
    good = compressed(kind)

    def said(raw: bytes) -> str:
        with pytest.raises((ModelFileError, ModelError)) as caught:
            load_model(write(tmp_path, raw))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert re.search("cannot be unpacked|is not in the file|past the end", said(good[:-200]))
    if kind == "LZ4":
        assert "bytes of LZ4 cannot become 4294967295, as the file says" in said(good[:64] + b"\xff" * 4 + good[68:])
        assert "0 bytes of LZ4 cannot become" in said(good[:66])
    else:
        assert "its zstd frame cannot be unpacked" in said(good[:64] + b"garbage" + good[71:])
        monkeypatch.setitem(compressed_module._MOST_BY_BYTE, "zstd", 0)
        assert "bytes become more than 0, as no weights do" in said(good)
        monkeypatch.setitem(compressed_module._MOST_BY_BYTE, "zstd", 4096)
    monkeypatch.setattr(compressed_module, "_SPARE", 1 << 60)
    assert "for which there is no room" in said(good)


@pytest.mark.contract("FILE-APR-6")
@pytest.mark.parametrize(("kind", "package"), [("LZ4", "lz4"), ("zstd", "zstandard")])
def test_without_the_package_that_unpacks(kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lz4", "lz4.block", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    path = write(tmp_path, compressed(kind))
    with pytest.raises(
        UnsupportedModelError, match=rf"compressed by {kind}, .*pip install {package}; or write it again with `apr` without"
    ):
        load_model(path)
    assert [finding.rule.code for finding in check(path).findings] == ["file-kind"]


def damaged(kind: str) -> tuple[bytes, str]:
    file = small_apr()
    raw = bytearray(file.pack())
    if kind == "header":
        raw[8] ^= 1
        return bytes(raw), "the header's checksum is .*, expected"
    if kind == "short":
        return bytes(raw[:40]), "40 bytes, expected at least the 64"
    if kind == "metadata":
        return replace(file, raw_metadata=b'{"hidden_size": 8').pack(), "its metadata are no JSON"
    if kind == "metadata is a list":
        return replace(file, raw_metadata=b"[1]").pack(), "expected a JSON object"
    if kind == "deep":
        return replace(file, raw_metadata=b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}").pack(), "its metadata are no JSON"
    if kind == "count":
        return replace(file, count=1 << 30).pack(), "the tensor count says 1073741824 entries"
    if kind == "cut":
        return bytes(raw[:-200]), "past the end of the file .*truncated"
    if kind == "offset":
        raw[24:32] = struct.pack("<Q", 1 << 40)
        return with_checksum(bytes(raw)), "where the index should be, is not in the file"
    if kind == "dtype":
        file.tensors["output_norm.weight"].code = 77
        return file.pack(), "tensor 'output_norm.weight' of 8 elements has 32 bytes of the unknown dtype 77"
    if kind == "size":
        file.tensors["output_norm.weight"].data += b"1234"
        return file.pack(), "has 36 bytes of F32"
    if kind == "integers":
        file.tensors["output_norm.weight"] = AprTensor(4, (8,), bytes(32))
        return file.pack(), "has 32 bytes of I32"
    if kind == "zero":
        file.tensors["output_norm.weight"].dims = (0,)
        return file.pack(), "expected 1 to 4 dimensions of at least 1"
    raise KeyError(kind)


KINDS = ("header", "short", "metadata", "metadata is a list", "deep", "count", "cut", "offset", "dtype", "size", "integers", "zero")


@pytest.mark.contract("FILE-APR-2")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_sentence(tmp_path: Path, kind: str) -> None:
    raw, message = damaged(kind)
    path = write(tmp_path, raw)
    with pytest.raises((ModelFileError, UnsupportedModelError), match=message) as caught:
        load_model(path)
    assert fails("stages", path) == str(caught.value)
    assert check(path).exit_code == 1


@pytest.mark.contract("FILE-APR-2")
def test_check_sums_up_what_a_run_does_not(tmp_path: Path) -> None:
    raw = bytearray(small_apr().pack())
    raw[-10] ^= 1  # in the padding of the last tensor
    path = write(tmp_path, bytes(raw))
    load_model(path)
    assert [finding.rule.code for finding in check(path).findings if finding.rule.level.value == "error"] == ["file-checksum"]
    assert check(path, weights=False).exit_code == 0


def test_a_tensor_that_is_cut_off_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, small_apr().pack()[:-100])
    codes = [finding.rule.code for finding in check(path).findings]
    assert {"file-truncated", "tensor-damaged"} <= set(codes)


def test_what_follows_the_last_tensor_is_a_note(tmp_path: Path) -> None:
    path = write(tmp_path, small_apr().pack() + bytes(40))
    codes = {finding.rule.code for finding in check(path).findings}
    assert {"file-tail", "file-checksum"} <= codes


def _flip_header(raw: bytearray, generator: np.random.Generator) -> bytes:
    for position in generator.integers(4, 64, generator.integers(1, 4)).tolist():
        raw[position] = int(generator.integers(0, 256))
    return with_checksum(bytes(raw))


def _flip_anywhere(raw: bytearray, generator: np.random.Generator) -> bytes:
    end = int.from_bytes(raw[32:40], "little")
    for position in generator.integers(64, end, generator.integers(1, 5)).tolist():
        raw[position] = int(generator.integers(0, 256))
    return bytes(raw)


@pytest.mark.contract("ERR-GGUF-1")
@pytest.mark.parametrize("flip", [_flip_header, _flip_anywhere])
def test_random_bytes(tmp_path: Path, flip: Callable[[bytearray, np.random.Generator], bytes]) -> None:
    """600 files with 1 to 4 other bytes before the data, their header's checksum made right: an error or success, both happen."""
    sound, generator = small_apr().pack(), np.random.default_rng(20261129)
    failed = sum(attempt(write(tmp_path, flip(bytearray(sound), generator))) is not None for _ in range(600))
    assert 120 < failed <= 600


@pytest.mark.contract("ERR-MODEL-1")
def test_random_values_of_every_number(tmp_path: Path) -> None:
    """Every number of the metadata, and what may stand beside them, as every kind of value that JSON has."""
    values = [
        None,
        False,
        True,
        0,
        -1,
        3,
        2**31,
        2**70,
        0.5,
        float("inf"),
        float("nan"),
        "",
        "x",
        "\ud800",
        [],
        [1, "a"],
        [1, 2],
        {},
        {"a": 1},
    ]
    others = ("head_dim", "num_experts", "hf_architecture", "sliding_window", "rope_scaling", "tokenizer.vocabulary", "tokenizer.model")
    outcomes = set()
    for name in (*small_apr().metadata, *others):
        for value in values:
            raw = json.dumps({**small_apr().metadata, name: value}).encode()
            outcomes.add(type(attempt(write(tmp_path, replace(small_apr(), raw_metadata=raw)))))
    assert outcomes == {type(None), ModelError, ModelFileError, UnsupportedModelError}

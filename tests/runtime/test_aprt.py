"""APRT files, byte by byte, and what a failed write leaves."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace import aprt
from aprgraph.runtime.trace.aprt import (
    MAX_ELEMENTS,
    SMALL,
    WHOLE_MODEL,
    file_size,
    pack_header,
    read_aprt,
    read_header,
    relative_path,
    write_aprt,
)

ODD_BITS = [0x7FC00000, 0x7FC00001, 0x7F800001, 0xFFC12345, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001, 0x00000000]


def odd_values() -> aprt.F32:
    return np.array(ODD_BITS, "<u4").view("<f4")


def test_the_bytes_of_a_layer(tmp_path: Path) -> None:
    write_aprt(tmp_path / "a.bin", 3, np.array([[1.0, -2.0, 0.5], [0.0, 4.0, 8.0]], np.float32))
    assert (tmp_path / "a.bin").read_bytes() == bytes.fromhex(
        "41505254 03000000 06000000 0000803f 000000c0 0000003f 00000000 00008040 00000041"
    )


def test_the_bytes_of_a_whole_model_stage(tmp_path: Path) -> None:
    write_aprt(tmp_path / "a.bin", None, np.array([1.0], np.float32))
    assert (tmp_path / "a.bin").read_bytes() == bytes.fromhex("41505254 ffffffff 01000000 0000803f")
    assert read_header(tmp_path / "a.bin") == (None, 1)


def test_no_elements(tmp_path: Path) -> None:
    write_aprt(tmp_path / "a.bin", 0, np.empty((0, 4), np.float32))
    assert (tmp_path / "a.bin").read_bytes() == b"APRT" + bytes(8)
    layer, values = read_aprt(tmp_path / "a.bin")
    assert (layer, values.shape, values.dtype) == (0, (0,), np.float32)


def test_bit_patterns_are_kept(tmp_path: Path) -> None:
    write_aprt(tmp_path / "a.bin", 1, odd_values())
    _, values = read_aprt(tmp_path / "a.bin")
    assert values.view(np.uint32).tolist() == ODD_BITS
    assert (tmp_path / "a.bin").read_bytes()[12:] == struct.pack(f"<{len(ODD_BITS)}I", *ODD_BITS)


@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed", "big-endian", "fortran"])
def test_memory_layout_does_not_matter(tmp_path: Path, layout: str) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    values = {
        "transposed": base.T, "strided": base[::2, 1::2], "reversed": base[::-1], "big-endian": base.astype(">f4"),
        "fortran": np.asfortranarray(base),
    }[layout]  # fmt: skip
    write_aprt(tmp_path / "a.bin", 0, values)
    assert read_aprt(tmp_path / "a.bin")[1].tolist() == [float(value) for row in values for value in row]


@pytest.mark.parametrize("count", [0, 1, SMALL // 4 - 4, SMALL // 4 - 3, SMALL // 4 - 2, SMALL])
def test_a_tensor_is_read_only_and_a_large_one_mapped(tmp_path: Path, count: int) -> None:
    """A file of SMALL bytes (3 of its words are the header) is read in one piece; one of a word more is not."""
    write_aprt(tmp_path / "a.bin", 0, np.arange(count, dtype=np.float32))
    _, values = read_aprt(tmp_path / "a.bin")
    assert isinstance(values, np.memmap) == (count > SMALL // 4 - 3)
    assert values.tobytes() == np.arange(count, dtype=np.float32).tobytes()
    assert not values.flags.writeable
    if not count:
        return
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 2.0


@pytest.mark.parametrize("layer", [0, 1, 4095, WHOLE_MODEL - 1, None])
def test_layers(tmp_path: Path, layer: int | None) -> None:
    write_aprt(tmp_path / "a.bin", layer, np.zeros(2, np.float32))
    assert read_header(tmp_path / "a.bin") == (layer, 2)


def test_what_does_not_fit_the_header() -> None:
    assert pack_header(0, MAX_ELEMENTS)[8:] == b"\xff\xff\xff\xff"
    with pytest.raises(TraceError, match="4294967296 elements does not fit into an APRT file"):
        pack_header(0, MAX_ELEMENTS + 1)
    for layer in (-1, WHOLE_MODEL):
        with pytest.raises(TraceError, match="expected 0 to 4294967294"):
            pack_header(layer, 1)


def test_paths() -> None:
    assert relative_path("lm_head", None) == "lm_head.bin"
    assert relative_path("ffn_up", 12) == "layer-12/ffn_up.bin"
    assert relative_path("ffn_up", 12, 3) == "step-3/layer-12/ffn_up.bin"


# -- damage -------------------------------------------------------------------------------------------------------------


def test_every_truncation_and_extension(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_aprt(path, 2, np.arange(3, dtype=np.float32))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError, match=r"a\.bin: \d+ bytes"):
            read_aprt(path)
    for extra in (b"\0", b"\0\0\0\0"):
        path.write_bytes(whole + extra)
        with pytest.raises(TraceError, match=rf"{len(whole) + len(extra)} bytes, expected {len(whole)} for the 3 elements"):
            read_aprt(path)


def test_another_magic(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"GGUF" + bytes(12))
    with pytest.raises(TraceError, match=r"a\.bin: begins with b'GGUF', expected b'APRT'; not an APRT file"):
        read_aprt(tmp_path / "a.bin")


def test_a_count_that_would_need_16_gib(tmp_path: Path) -> None:
    """Checked against the size of the file before anything is allocated."""
    (tmp_path / "a.bin").write_bytes(b"APRT" + b"\xff" * 8 + bytes(16))
    with pytest.raises(TraceError, match=f"28 bytes, expected {file_size(MAX_ELEMENTS)}"):
        read_aprt(tmp_path / "a.bin")


def test_headers_at_random(tmp_path: Path) -> None:
    """Either the file is sound, or there is a TraceError; nothing else."""
    path, generator, sound = tmp_path / "a.bin", np.random.default_rng(0), 0
    for _ in range(400):
        data = bytearray(b"APRT" + struct.pack("<II", int(generator.integers(5)), int(generator.integers(4))))
        data += generator.bytes(int(generator.choice([0, 3, 4, 8, 12])))
        if generator.random() < 0.5:
            data[int(generator.integers(len(data)))] = int(generator.integers(256))
        path.write_bytes(data)
        try:
            layer, values = read_aprt(path)
        except TraceError:
            continue
        sound += 1
        head = struct.pack("<I", WHOLE_MODEL if layer is None else layer) + struct.pack("<I", values.size)
        assert bytes(data) == b"APRT" + head + values.tobytes()
    assert sound > 20


@pytest.mark.parametrize("make", ["missing", "directory", "nul"])
def test_what_cannot_be_opened(tmp_path: Path, make: str) -> None:
    path = {"missing": tmp_path / "no.bin", "directory": tmp_path, "nul": tmp_path / "a\0b"}[make]
    with pytest.raises(TraceError, match="cannot be read"):
        read_aprt(path)


# -- writing ------------------------------------------------------------------------------------------------------------


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize("after", [0, 1, 11, 12, 13, 50])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk takes ``after`` bytes, as disks do: a short write first, then the error."""
    path = tmp_path / "a.bin"
    write_aprt(path, 0, np.zeros(3, np.float32))
    old, room, writev = path.read_bytes(), [after], os.writev

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)[: room[0]]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        return writev(descriptor, [data])

    monkeypatch.setattr(aprt.os, "writev", full)
    with pytest.raises(TraceError, match=r"a\.bin: cannot be written: No space left on device; free some space"):
        write_aprt(path, 0, np.ones(100, np.float32))
    assert path.read_bytes() == old
    assert names(tmp_path) == ["a.bin"]
    room[0] = after
    with pytest.raises(TraceError, match=r"b\.bin: cannot be written: No space left on device; free some space"):
        write_aprt(tmp_path / "b.bin", 0, np.ones(100, np.float32))
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", [1, 2, 7, 12, 13])
def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The system may take fewer bytes than it is given, at any place."""
    writev = os.writev

    def short(descriptor: int, buffers: list[memoryview]) -> int:
        return writev(descriptor, [b"".join(bytes(buffer) for buffer in buffers)[:step]])

    monkeypatch.setattr(aprt.os, "writev", short)
    values = np.arange(9, dtype=np.float32)
    write_aprt(tmp_path / "a.bin", 7, values)
    assert read_header(tmp_path / "a.bin") == (7, 9)
    assert read_aprt(tmp_path / "a.bin")[1].tolist() == values.tolist()


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int, buffers: list[memoryview]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(aprt.os, "writev", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_aprt(tmp_path / "a.bin", 0, np.ones(2, np.float32))
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["no/such/a.bin", "file/a.bin", "taken.bin", "x" * 300])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "taken.bin").mkdir()
    with pytest.raises(TraceError, match="cannot be written"):
        write_aprt(tmp_path / place, 0, np.ones(2, np.float32))
    assert names(tmp_path) == ["file", "taken.bin"]
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TraceError, match="cannot be written: Permission denied"):
        write_aprt(tmp_path / "a.bin", 0, np.ones(2, np.float32))
    assert names(tmp_path) == []


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for those who run the tests as root."""

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(aprt.os, "open", denied)
    with pytest.raises(TraceError, match="cannot be written: Permission denied"):
        write_aprt(tmp_path / "a.bin", 0, np.ones(2, np.float32))
    assert names(tmp_path) == []


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.bin")
    with pytest.raises(TraceError, match=r"a\.bin: is a pipe, expected a file"):
        read_header(tmp_path / "a.bin")

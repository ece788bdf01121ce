"""The bytes of APRT files, by readers and writers of this file's own that know the format's offsets and nothing else."""

from __future__ import annotations

import math
import resource
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stages import STAGES
from aprgraph.runtime.trace.aprt import read_aprt, relative_path, write_aprt
from aprgraph.runtime.trace.reader import Trace

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def written(path: Path, layer: int | None, values: npt.NDArray[np.float32]) -> bytes:
    write_aprt(path, layer, values)
    return path.read_bytes()


@pytest.mark.contract("APRT-HEADER-1")
@pytest.mark.parametrize(("layer", "count"), [(3, 6), (0, 1), (258, 65539)])
def test_the_header_is_magic_layer_and_count(tmp_path: Path, layer: int, count: int) -> None:
    raw = written(tmp_path / "x.bin", layer, np.zeros(count, np.float32))
    assert raw[:4] == b"APRT"
    assert raw[4:8] == bytes([layer & 255, layer >> 8, 0, 0])
    assert raw[8:12] == bytes([count & 255, count >> 8 & 255, count >> 16, 0])
    (tmp_path / "other.bin").write_bytes(b"APRT" + struct.pack("<II", layer, count) + bytes(4 * count))
    found_layer, values = read_aprt(tmp_path / "other.bin")
    assert (found_layer, values.size) == (layer, count)


@pytest.mark.contract("APRT-HEADER-1")
def test_the_header_in_hexadecimal(tmp_path: Path) -> None:
    assert written(tmp_path / "x.bin", 3, SIX)[:12].hex(" ", 4) == "41505254 03000000 06000000"


@pytest.mark.contract("APRT-WHOLE-1")
def test_a_whole_model_stage_has_the_layer_of_all_ones(tmp_path: Path) -> None:
    assert written(tmp_path / "x.bin", None, SIX)[4:8] == b"\xff\xff\xff\xff"
    assert read_aprt(tmp_path / "x.bin")[0] is None


@pytest.mark.contract("APRT-SIZE-1")
@pytest.mark.parametrize("shape", [(0,), (4, 0), (), (1,), (3, 5), (2, 7, 7)])
def test_the_size_is_12_and_4_for_each_element(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "x.bin"
    raw = written(path, 1, np.ones(shape, np.float32))
    assert len(raw) == 12 + 4 * math.prod(shape)
    assert read_aprt(path)[1].tolist() == [1.0] * math.prod(shape)
    for other in (raw[:-1], raw + b"\0", raw + bytes(4)):
        path.write_bytes(other)
        with pytest.raises(TraceError):
            read_aprt(path)


@pytest.mark.contract("APRT-ORDER-1")
@pytest.mark.parametrize("arrange", ["contiguous", "transposed", "strided", "reversed", "big-endian"])
def test_elements_lie_where_their_indices_say(tmp_path: Path, arrange: str) -> None:
    base = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    values = {
        "contiguous": base,
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "reversed": base[::-1, ::-1],
        "big-endian": base.astype(">f4"),
    }[arrange]
    raw = written(tmp_path / "x.bin", 0, values)
    rows, columns = values.shape
    for i in range(rows):
        for j in range(columns):
            assert struct.unpack_from("<f", raw, 12 + 4 * (i * columns + j)) == (values[i, j],)


@pytest.mark.contract("APRT-BITS-1")
def test_every_kind_of_bit_pattern_comes_back(tmp_path: Path) -> None:
    special = [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FBFFFFF, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x807FFFFF]
    random = np.random.default_rng(1).integers(0, 2**32, 5000, dtype=np.uint32)
    bits = np.concatenate([np.array(special, np.uint32), random])
    raw = written(tmp_path / "x.bin", 0, bits.view(np.float32))
    assert raw[12:] == bits.astype("<u4").tobytes()
    assert np.array_equal(read_aprt(tmp_path / "x.bin")[1].view(np.uint32), bits)


@pytest.mark.contract("APRT-LAYOUT-1")
def test_paths_follow_from_the_stage_table(tmp_path: Path) -> None:
    expected = {}
    for stage in STAGES:
        for step in (0, 1, 12):
            layer = 0 if stage.first_layer_only else 27 if stage.per_layer else None
            folder = "" if step == 0 else f"step-{step}/"
            name = f"{stage.name}.bin" if not stage.per_layer else f"layer-{layer}/{stage.name}.bin"
            assert relative_path(stage.name, layer, step) == folder + name
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"APRT" + struct.pack("<IIf", 0xFFFFFFFF if layer is None else layer, 1, len(expected)))
            expected[step, layer, stage.name] = float(len(expected))
    trace = Trace.open(tmp_path)
    assert {entry.key: trace.load(entry).tolist() for entry in trace.entries} == {key: [value] for key, value in expected.items()}


@pytest.mark.contract("APRT-DAMAGE-1")
def test_a_file_that_is_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    raw = written(path, 3, SIX)
    for damaged in [*(raw[:size] for size in range(len(raw))), raw + b"\0", b"APRX" + raw[4:], raw[:8] + b"\7" + raw[9:], bytes(len(raw))]:
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match=r"x\.bin: "):
            read_aprt(path)
    path.unlink()
    with pytest.raises(TraceError, match=r"x\.bin: "):
        read_aprt(path)


@pytest.mark.contract("APRT-ATOMIC-1")
@pytest.mark.parametrize("room", [0, 5, 12, 500])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    path = tmp_path / "x.bin"
    before = written(path, 3, SIX)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # the file system then refuses the bytes beyond
    try:
        with pytest.raises(TraceError, match=r"x\.bin: cannot be written"):
            write_aprt(path, 3, np.ones(1000, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["x.bin"]

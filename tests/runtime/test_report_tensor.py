"""The tensor that a page shows: the map's numbers, its PNG, the histograms, and the memory that they take."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.runtime.report.histogram import BINS, make_histograms
from aprgraph.runtime.report.pieces import PIECE, difference
from aprgraph.runtime.report.png import encode_png
from aprgraph.runtime.report.tensor_map import EQUAL, FIRST, HEIGHT, LAST, NO_NUMBER, WIDTH, make_palette, make_tensor_map
from aprgraph.runtime.trace.aprt import read_aprt, write_aprt
from tests.support.traces import values


def decode_png(data: bytes) -> tuple[npt.NDArray[np.uint8], list[tuple[int, ...]]]:
    """The indices and the palette, read as the specification says; only what our writer uses."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        assert name not in chunks
        chunks[name] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:], [tuple(chunks[b"PLTE"][i : i + 3]) for i in range(0, len(chunks[b"PLTE"]), 3)]


def test_png_round_trip() -> None:
    indices = np.random.default_rng(0).integers(0, 256, (13, 31)).astype(np.uint8)
    decoded, palette = decode_png(encode_png(indices, make_palette()))
    np.testing.assert_array_equal(decoded, indices)
    assert palette == make_palette()
    assert len(palette) == 256


def pooled(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float64]:
    """The map of the definition, with one loop per element."""
    error = np.abs(a.astype(np.float64) - b)
    error = np.moveaxis(error, axis, 0)
    error = error.reshape(error.shape[0], -1, error.shape[-1]).max(axis=1)
    height, width = min(error.shape[0], HEIGHT), min(error.shape[1], WIDTH)
    result = np.zeros((height, width))
    for (row, column), value in np.ndenumerate(error):
        # Element i of n lies in block i · blocks // n.
        cell = row * height // error.shape[0], column * width // error.shape[1]
        result[cell] = max(result[cell], value)
    return result


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 1), 0), ((7, 576), 0), ((300, 3), 0), ((3, 5, 5), 1), ((2, 130, 257), 1), ((6, 2, 300), 0), ((129, 300), 0), ((2, 3, 4, 5), 1)],
)
def test_a_cell_is_the_largest_difference_of_its_block(shape: tuple[int, ...], axis: int) -> None:
    a, b = values(*shape, seed=1), values(*shape, seed=2)
    found = make_tensor_map(a, b, axis)
    np.testing.assert_array_equal(found.cells, pooled(a, b, axis))
    assert (found.rows, found.columns) == (shape[axis], shape[-1])


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = values(2, 70, 300, seed=1), values(2, 70, 300, seed=2)
    whole = make_tensor_map(a, b, 1).cells
    for piece in (1, 299, 300, 1000):
        monkeypatch.setattr("aprgraph.runtime.report.tensor_map.PIECE", piece)
        np.testing.assert_array_equal(make_tensor_map(a, b, 1).cells, whole)


@pytest.mark.parametrize("size", [1, 2, 5, 100, 101, 49152, 100_003])
def test_a_flat_tensor_is_wrapped_and_loses_nothing(size: int) -> None:
    a = np.zeros(size, np.float32)
    for at in {0, size // 3, size - 1}:
        b = a.copy()
        b[at] = 3
        found = make_tensor_map(a, b, None)
        assert found.cells.max() == 3
        assert (found.cells > 0).sum() == 1
        row, column = (int(index[0]) for index in np.nonzero(found.cells))
        line, element = divmod(at, found.columns)
        height, width = found.cells.shape
        assert (row, column) == (line * height // found.rows, element * width // found.columns)
        assert height <= HEIGHT
        assert width <= WIDTH


def test_the_picture_shows_the_numbers() -> None:
    a = np.zeros((3, 4), np.float32)
    b = a.copy()
    b[0, 1], b[1, 2], b[2, 3] = 1e-4, 1e-2, 1.0
    a[2, 0] = np.nan
    found = make_tensor_map(a, b, 0)
    indices, _ = decode_png(found.png())
    assert found.range == (np.float32(1e-4), 1.0)
    expected = np.full((3, 4), EQUAL)
    expected[0, 1], expected[1, 2], expected[2, 3], expected[2, 0] = FIRST, round((FIRST + LAST) / 2), LAST, NO_NUMBER
    np.testing.assert_allclose(indices.astype(int), expected, atol=1)
    assert set(np.unique(indices[expected == EQUAL])) == {EQUAL}
    assert indices[2, 0] == NO_NUMBER


def test_the_scale_is_ordered_and_its_ends_are_apart() -> None:
    luminance = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in make_palette()[FIRST : LAST + 1]]
    assert all(after >= before - 0.5 for before, after in itertools.pairwise(luminance))
    assert luminance[-1] - luminance[0] > 150


def test_nothing_differs() -> None:
    x = values(4, 8)
    found = make_tensor_map(x, x, 0)
    assert found.range is None
    assert not found.indices().any()


def test_one_difference_alone_has_the_strongest_colour() -> None:
    x = np.zeros((2, 2), np.float32)
    y = x.copy()
    y[1, 0] = 5
    assert make_tensor_map(x, y, 0).indices().tolist() == [[EQUAL, EQUAL], [LAST, EQUAL]]


def test_difference_of_what_is_not_finite() -> None:
    nan, inf = np.nan, np.inf
    a = np.array([1.0, nan, inf, -inf, inf, nan, 2.0])
    b = np.array([3.0, nan, inf, -inf, -inf, 1.0, inf])
    np.testing.assert_array_equal(difference(a, b), [-2.0, 0.0, 0.0, 0.0, nan, nan, nan])


@pytest.mark.parametrize("size", [1, 7, BINS, PIECE + 1])
def test_counts_sum_to_the_elements(size: int) -> None:
    a, b = values(size, seed=1), values(size, seed=2)
    if size > 5:
        a[2], a[3], b[3], b[5] = np.nan, np.inf, np.inf, -np.inf
    for histogram in make_histograms(a, b):
        assert histogram.total == size
        assert len(histogram.counts) == BINS == len(histogram.edges) - 1
    left, right, apart = make_histograms(a, b)
    if size > 5:
        assert (left.nan, left.inf, right.nan, right.inf) == (1, 1, 0, 2)
        assert (apart.nan, apart.inf) == (2, 0)


def test_counts_are_those_of_numpy() -> None:
    a, b = values(300, 400, seed=1), values(300, 400, seed=2)
    left, right, apart = make_histograms(a, b)
    both = np.concatenate([a.ravel(), b.ravel()])
    assert left.edges[0] == both.min()
    assert left.edges[-1] == both.max()
    for found, given in ((left, a), (right, b), (apart, a.astype(np.float64) - b)):
        expected, _ = np.histogram(given.astype(np.float64), found.edges)
        # A value on an edge may fall to either side of it by rounding.
        assert np.abs(found.counts - expected).sum() <= 4


@pytest.mark.parametrize("value", [0.0, -3.0, np.float32(3.4e38), np.nan, np.inf])
def test_a_constant_tensor(value: float) -> None:
    x = np.full((3, 3), value, np.float32)
    left, right, apart = make_histograms(x, x)
    assert left.total == right.total == apart.total == 9
    assert int(apart.counts.sum()) == 9
    assert int(left.counts.sum()) == (9 if np.isfinite(value) else 0)


def test_the_largest_numbers_of_both_signs() -> None:
    most = np.finfo(np.float32).max
    a, b = np.array([most, -most], np.float32), np.array([-most, most], np.float32)
    assert [histogram.total for histogram in make_histograms(a, b)] == [2, 2, 2]
    assert make_tensor_map(a.reshape(2, 1), b.reshape(2, 1), 0).cells.tolist() == [[2 * float(most)], [2 * float(most)]]


@pytest.mark.parametrize(("shape", "axis"), [((4096, 4096), 0), ((16, 1024, 1024), 1), ((1 << 24,), None)])
def test_memory_stays_bounded(tmp_path: Path, shape: tuple[int, ...], axis: int | None) -> None:
    """64 MiB on each side, memory-mapped; as float64 they would be 128 MiB each."""
    for side, scale in (("a", 1.0), ("b", 1.5)):
        rows = np.tile(values(1 << 12) * np.float32(scale), 1 << 12)
        write_aprt(tmp_path / f"{side}.bin", 0, rows)
        del rows
    a, b = (read_aprt(tmp_path / f"{side}.bin")[1].reshape(shape) for side in ("a", "b"))
    tracemalloc.start()
    make_tensor_map(a, b, axis)
    make_histograms(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20

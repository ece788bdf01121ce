"""The one pass over the bytes of a tensor, against the tensor decoded as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from aprgraph.graph.block_formats import BLOCK_FORMATS, decode_reference, find_format
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.check import survey as survey_module
from aprgraph.runtime.check.scan_blocks import scale_fields
from aprgraph.runtime.check.survey import SurveyedTensor, Surveyor
from tests.support.tiny_blocks import FOREIGN_FORMATS, FORMATS, random_weight

Bytes = npt.NDArray[np.uint8]
ROWS, ACROSS = 12, 4


def surveyed(tmp_path: Path, fmt: str, raw: Bytes) -> SurveyedTensor:
    """The survey of the one tensor of a file: u8 [matrices,] rows, bytes of a row."""
    path = tmp_path / "t.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("w.weight", raw, raw_dtype=GGMLQuantizationType[fmt])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    surveyor = Surveyor(file)
    return surveyor.survey(file.tensors["w.weight"])


def random_rows(fmt: str, rows: int = ROWS, units: int = ACROSS) -> Bytes:
    """Random rows; a unit is a block, or 32 elements of a plain format."""
    known = find_format(fmt)
    assert known is not None
    columns = units * (known.elements if not known.is_plain else 32)
    return random_weight(fmt, (rows, columns), np.random.default_rng(len(fmt))).reshape(rows, -1).copy()


def block(fmt: str, raw: Bytes, row: int, unit: int) -> Bytes:
    """The bytes of one unit, to be changed."""
    known = find_format(fmt)
    assert known is not None
    size = known.block_bytes * (32 if known.is_plain else 1)
    return raw[row, unit * size : (unit + 1) * size]


def decoded(fmt: str, raw: Bytes) -> npt.NDArray[np.float64]:
    """All elements [rows, columns]."""
    known = find_format(fmt)
    assert known is not None
    return decode_reference(known, raw, (len(raw), raw.shape[1] // known.block_bytes * known.elements))


@pytest.fixture(params=["one chunk", "a chunk for each row"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "one chunk":
        monkeypatch.setattr(survey_module, "_CHUNK", 1)


@pytest.mark.parametrize("fmt", [*FORMATS, *FOREIGN_FORMATS])
def test_sound_weights(fmt: str, tmp_path: Path) -> None:
    (found,) = surveyed(tmp_path, fmt, random_rows(fmt)).matrices
    assert (found.nan, found.inf, found.places) == (0, 0, [])
    assert found.live_rows.all()
    assert found.varied
    if not fmt.startswith("TQ"):  # elements of ternary weights are often 0
        assert found.live_columns.all()
        assert found.hole == (0, 0)


@pytest.mark.contract("CHECK-NAN-1")
@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_scale_of_every_format(fmt: str, kind: str, tmp_path: Path, chunks: None) -> None:
    """Wherever a block has a float of its own; NaN is found, and placed, exactly where the decoded tensor has it."""
    known = BLOCK_FORMATS[fmt]
    for field in scale_fields(known) if known.arrives_in_blocks else known.fields:
        if field.dtype == "uint8" and kind == "inf":
            continue  # an exponent by itself has NaN alone
        raw = random_rows(fmt)
        dtype = np.dtype("<u4" if field.dtype == "float32" else "<u2" if field.itemsize == 2 else "u1")
        infinity = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80, "uint8": 254}[field.dtype]
        bits = np.array([infinity | int(kind == "nan")], dtype)
        start = known.offset(field.name)
        for row, unit in ((2, 1), (7, 3)):
            block(fmt, raw, row, unit)[start : start + field.itemsize] = bits.view(np.uint8)
        found = surveyed(tmp_path, fmt, raw)
        assert (found.nan, found.inf) == ((2, 0) if kind == "nan" else (0, 2)), field
        width = known.elements if known.arrives_in_blocks else 1
        columns = [32 * unit if known.is_plain else unit * width for unit in (1, 3)]
        expected = [(2, columns[0], columns[0] + width), (7, columns[1], columns[1] + width)]
        assert [(place.row, place.start, place.stop) for place in found.matrices[0].places] == expected
        if fmt != "MXFP4":  # its reference decoder has no NaN: 2^128 times a value
            with np.errstate(invalid="ignore"):
                rows, at = np.nonzero(~np.isfinite(decoded(fmt, raw)))
            assert set(rows) == {2, 7}
            assert all(
                any(row == place.row and place.start <= column < place.stop for place in found.matrices[0].places)
                for row, column in zip(rows, at, strict=True)
            )


@pytest.mark.parametrize("fmt", ["IQ2_XXS", "TQ2_0"])
def test_nan_of_formats_that_the_gguf_package_decodes(fmt: str, tmp_path: Path) -> None:
    raw = random_rows(fmt, units=1)
    start = {"IQ2_XXS": 0, "TQ2_0": 64}[fmt]
    raw[5, start : start + 2] = (0x00, 0x7E)
    found = surveyed(tmp_path, fmt, raw)
    assert found.nan == 256
    assert {place.row for place in found.matrices[0].places} == {5}


def _without_values(fmt: str, part: Bytes) -> None:
    """Makes a block 0 by its elements, its scale left as it is."""
    if fmt == "Q8_0":
        part[2:] = 0
    elif fmt == "Q4_0":
        part[2:] = 0x88
    elif fmt == "Q5_0":
        part[2:6] = 0xFF
        part[6:] = 0
    elif fmt == "Q6_K":
        part[:128], part[128:192] = 0, 0xAA
    else:
        part[:] = 0


@pytest.mark.contract("CHECK-ZERO-1")
@pytest.mark.parametrize("how", ["bytes", "elements"])
@pytest.mark.parametrize("fmt", [name for name in FORMATS if name not in ("MXFP4", "IQ4_NL", "IQ4_XS")])
def test_zero_rows_columns_and_holes(fmt: str, how: str, tmp_path: Path, chunks: None) -> None:
    raw = random_rows(fmt)
    for row in range(ROWS):
        for unit in range(ACROSS):
            if row in (3, 4) or unit == 2 or (row, unit) in ((2, 3), (5, 0), (5, 1)):
                part = block(fmt, raw, row, unit)
                part[:] = 0 if how == "bytes" else part
                if how == "elements":
                    _without_values(fmt, part)
    (found,) = surveyed(tmp_path, fmt, raw).matrices
    zero = decoded(fmt, raw) == 0
    assert not found.live_rows[3:5].any()
    np.testing.assert_array_equal(found.live_rows, ~zero.all(axis=1))
    width = zero.shape[1] // len(found.live_columns)
    np.testing.assert_array_equal(found.live_columns, ~zero.all(axis=0).reshape(-1, width).all(axis=1))
    units = zero.reshape(-1, width).all(axis=1)
    runs = np.split(np.arange(units.size), np.flatnonzero(np.diff(units)) + 1)
    across = len(found.live_columns)
    holes = [run for run in runs if units[run[0]] and (run[0] % across or (run[-1] + 1) % across)]
    assert found.hole[1] == max(map(len, holes))
    assert found.hole[0] in [run[0] for run in holes if len(run) == found.hole[1]]


def test_constant_tensors_and_zero_ones(tmp_path: Path) -> None:
    ones = np.ones((ROWS, 64), "<f4").view(np.uint8)
    (found,) = surveyed(tmp_path, "F32", ones).matrices
    assert (found.varied, found.value) == (False, 1.0)
    (found,) = surveyed(tmp_path, "Q8_0", np.zeros((ROWS, 68), np.uint8)).matrices
    assert found.is_zero
    same = np.tile(block("Q4_0", random_rows("Q4_0"), 0, 0), (ROWS, 2))
    same[:, [*range(2, 18), *range(20, 36)]] = 0x77
    (found,) = surveyed(tmp_path, "Q4_0", same).matrices
    assert (found.varied, found.value) == (False, decoded("Q4_0", same)[0, 0])


def test_experts_are_matrices_of_their_own(tmp_path: Path, chunks: None) -> None:
    raw = random_rows("Q8_0", rows=15).reshape(3, 5, -1)
    raw[1] = 0
    raw[2, 4, :2] = (0, 0x7C)
    found = surveyed(tmp_path, "Q8_0", raw)
    assert [matrix.is_zero for matrix in found.matrices] == [False, True, False]
    assert found.inf == 1
    assert [(place.matrix, place.row) for matrix in found.matrices for place in matrix.places] == [(2, 4)]


@pytest.mark.parametrize("fmt", ["Q8_0", "Q4_1", "F32", "BF16", "F16"])
def test_a_value_out_of_proportion_is_found_again(fmt: str, tmp_path: Path, chunks: None) -> None:
    raw = random_rows(fmt, rows=20)
    large = np.array([3e4], "<f4").view("<u4") >> 16 if fmt == "BF16" else np.array([3e4], "<f4" if fmt == "F32" else "<f2")
    part = block(fmt, raw, 9, 2)
    part[: 4 if fmt == "F32" else 2] = large.astype("<u2").view(np.uint8) if fmt == "BF16" else large.view(np.uint8)
    found = surveyed(tmp_path, fmt, raw)
    field = next(iter(found.matrices[0].octaves))
    top = int(np.flatnonzero(found.octaves(field))[-1])
    assert 2.0 ** (top - 127) <= 3e4 < 2.0 ** (top - 126)
    surveyor = Surveyor(GGUFFile(tmp_path / "t.gguf"))
    (place,) = surveyor.locate(found.info, field, top)
    assert (place.row, place.start) == (9, 64)

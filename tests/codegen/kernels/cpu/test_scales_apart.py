"""Kernels of weights as checkpoints have them, with scales that lie apart, or column by column, wherever the pieces lie; ml_dtypes is
the witness.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.block_formats import find_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.weight_pieces import Piece, decode_piece, packed
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, Weight, f32, i32, reference, request, run, weight_in_columns, weight_with_scales

CPU = RUNNABLE[-1]
RNG = np.random.default_rng(5)


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize(("kind", "dtype"), [("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)])
def test_every_fp8_number_is_decoded_exactly(kind: str, dtype: type) -> None:
    fmt = find_format(f"F8_{kind.upper()}_ROW")
    assert fmt is not None
    codes, scales = np.tile(np.arange(256, dtype=np.uint8), (3, 1)), np.array([[1.0], [0.37], [2.0**-40]], np.float32)
    table, piece = TensorType(f"f8_{kind}_row", (3, 256)), Piece(codes, scales.view(np.uint8))
    wanted = codes.view(dtype).astype(np.float32) * scales
    found = run(
        request("embed", [i32("n"), table], scale=1.0),
        [np.arange(3, dtype=np.int32), Weight(table, packed(table, [piece]), wanted.astype(np.float64))],
        (3, 256),
        CPU,
    )
    finite = np.isfinite(wanted)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.array_equal(found[~np.isnan(wanted)], wanted[~np.isnan(wanted)])
    assert np.array_equal(decode_piece(fmt, piece, 0, 3)[finite].astype(np.float32), wanted[finite])


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize("layout", ["f8_e4m3_tensor", "f8_e5m2_row", "f8_e4m3_16x32", "mxfp4_pairs"])
def test_experts_whose_scales_lie_apart(layout: str) -> None:
    w = weight_with_scales(layout, 4, 37, 96)
    what = request("expert_linear", [f32("n", 96), f32("n", 2), w.type])
    x, ids = RNG.standard_normal((9, 96)).astype(np.float32), np.stack([RNG.permutation(4)[:2] for _ in range(9)]).astype(np.float32)
    assert nmse(run(what, [x, ids, w], (9, 2, 37), CPU), reference(what, [x, ids, w])) < 1e-12


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize("layout", ["f32_columns", "f16_columns", "bf16_columns"])
@pytest.mark.parametrize(("rows", "columns"), [(37, 53), (72, 64), (1, 7)])
def test_experts_that_lie_column_by_column(layout: str, rows: int, columns: int) -> None:
    """They have the bits of those that lie row by row."""
    w = weight_in_columns(layout, 4, rows, columns)
    what = request("expert_linear", [f32("n", columns), f32("n", 2), w.type])
    x, ids = RNG.standard_normal((9, columns)).astype(np.float32), np.stack([RNG.permutation(4)[:2] for _ in range(9)]).astype(np.float32)
    found = run(what, [x, ids, w], (9, 2, rows), CPU)
    assert nmse(found, reference(what, [x, ids, w])) < 1e-12
    by_rows = Weight(TensorType("f32", w.type.dims), w.decoded.astype(np.float32), w.decoded)
    plain = request("expert_linear", [f32("n", columns), f32("n", 2), by_rows.type])
    assert run(plain, [x, ids, by_rows], (9, 2, rows), CPU).tobytes() == found.tobytes()


@pytest.mark.contract("FILE-HF-7")
def test_a_matrix_in_blocks_of_128_by_128() -> None:
    w = weight_with_scales("f8_e4m3_128x128", 300, 272)
    what = request("linear", [f32("n", 272), w.type])
    x = RNG.standard_normal((3, 272)).astype(np.float32)
    assert nmse(run(what, [x, w], (3, 300), CPU), reference(what, [x, w])) < 1e-12

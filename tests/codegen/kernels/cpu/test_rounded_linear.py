"""The linear kernel of rounded activations, in every block format that it is for and on every CPU level."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.arithmetics import ARITHMETICS
from aprgraph.graph.block_formats import BLOCK_FORMATS, decode_minima, weight_format, weight_storage
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.rounded_linear import WHOLE_FORMATS, multiplies
from aprgraph.graph.roundings import ROUNDINGS, round_values, sum_errors
from tests.golden import ggml_cases as cases
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, Weight, columns_of, f32, request, run, set_threads, weight
from tests.support.roundings import hard_rows

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(11)
SCHEMES = ARITHMETICS["ggml-avx2"].activations


def activations(*shape: int) -> npt.NDArray[np.float32]:
    x = RNG.standard_normal(shape).astype(np.float32)
    x[RNG.random(shape) < 0.01] *= 40
    return x


def product(scheme: str, *weights: Weight) -> KernelRequest:
    return request("rounded_linear", [f32("n", weights[0].type.dims[-1]), *(w.type for w in weights)], scheme=scheme)


def expected(scheme: str, x: npt.NDArray[np.float32], *weights: Weight) -> npt.NDArray[np.float64]:
    """In float64: the rounded x times the weights, and what the kept sums are off times their minima."""
    rounding = ROUNDINGS[scheme]
    found = []
    for w in weights:
        one = round_values(x, rounding) @ w.decoded.T
        if rounding.sum_errors is not None:
            one = one + sum_errors(x, rounding) @ decode_minima(weight_format(w.type), w.stored).T
        found.append(one)
    return np.concatenate(found, axis=1)


def test_the_formats_are_those_whose_elements_are_whole_numbers() -> None:
    assert set(WHOLE_FORMATS) == {name for name, fmt in BLOCK_FORMATS.items() if fmt.elements > 1}
    assert all(multiplies(weight(fmt, 2, columns_of(fmt)).type, SCHEMES[fmt]) for fmt in WHOLE_FORMATS)
    assert not multiplies(weight("Q4_0", 2, 64).type, "q8_cuda_sums")  # its minima are not in the blocks
    assert not multiplies(weight("Q4_K", 2, 256).type, "q8_cuda")


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("fmt", WHOLE_FORMATS)
def test_every_format_agrees_with_the_declarations_at_awkward_sizes(fmt: str, cpu: Cpu) -> None:
    weights = [weight(fmt, rows, columns_of(fmt), seed=rows) for rows in (13, 1, 24)]
    what = product(SCHEMES[fmt], *weights)
    for n in (1, 2, 3, 4, 5, 9):
        x = activations(n, columns_of(fmt))
        assert nmse(run(what, [x, *weights], (n, 38), cpu), expected(SCHEMES[fmt], x, *weights)) < 1e-13


#: Formats of which ggml's functions for AVX2 add up in another order: blocks by twos.
BY_TWOS = ("IQ4_NL", "MXFP4")


@pytest.mark.contract("ARITHMETIC-KERNELS-2")
@pytest.mark.skipif(not RUNNABLE[-1].fma, reason="ggml's code for AVX2 fuses products and sums")
@pytest.mark.parametrize("fmt", WHOLE_FORMATS)
def test_products_are_those_of_ggml(fmt: str) -> None:
    """To the bit where the order of sums is the same; in the others to the rounding of another order."""
    kind = TensorType(fmt.lower(), (cases.ROWS, cases.COLUMNS))
    dtype, shape = weight_storage(kind)
    with np.load(cases.GOLDEN) as golden:
        blocks = np.ascontiguousarray(golden[f"weights/{fmt}"]).reshape(-1).view(dtype).reshape(shape)
        measured = {count: golden[f"haswell/{fmt}/{count}"] for count in (*cases.COUNTS, *cases.LONG_COUNTS)}
    w = Weight(kind, blocks, np.zeros(0))
    for count, wanted in measured.items():
        got = run(product(SCHEMES[fmt], w), [cases.activations(count), w], (count, cases.ROWS), RUNNABLE[-1])
        if count in cases.LONG_COUNTS:
            got = got[cases.kept_rows(count)]
        assert nmse(got, wanted) < 1e-13
        assert got.tobytes() == wanted.tobytes() or fmt in BY_TWOS, count


@pytest.mark.contract("ARITHMETIC-KERNELS-2")
@pytest.mark.parametrize("cpu", [cpu for cpu in RUNNABLE if cpu.fma], ids=lambda cpu: cpu.name)
@pytest.mark.parametrize("fmt", cases.REPACKED)
def test_products_are_those_of_llama_cpp_where_it_lays_weights_out_by_eight_rows(fmt: str, cpu: Cpu) -> None:
    """To the bit: it adds the products of a block up to one whole number. Of Q4_K those of 64 elements, if four rows of x go along."""
    kind = TensorType(fmt.lower(), (cases.REPACKED_ROWS, cases.COLUMNS))
    dtype, shape = weight_storage(kind)
    with np.load(cases.GOLDEN) as golden:
        blocks = np.ascontiguousarray(golden[f"repacked-weights/{fmt}"]).reshape(-1).view(dtype).reshape(shape)
        measured = {count: golden[f"repacked/{fmt}/{count}"] for count in cases.REPACKED_COUNTS}
    w = Weight(kind, blocks, np.zeros(0))
    for count, wanted in measured.items():
        got = run(product(SCHEMES[fmt], w), [cases.activations(count), w], (count, cases.REPACKED_ROWS), cpu)
        got = got[cases.kept_rows(count)]
        assert nmse(got, wanted) < 2e-13  # two orders of sums, each of which is 1e-13 from the exact one
        assert got.tobytes() == wanted.tobytes() or (fmt == "Q4_K" and count >= 4), count


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_segments_may_have_different_formats(cpu: Cpu) -> None:
    weights = [weight("Q4_K", 7, 256), weight("Q2_K", 5, 256), weight("Q6_K", 3, 256)]
    x, what = activations(6, 256), product("q8_k", *weights)
    together = run(what, [x, *weights], (6, 15), cpu)
    assert nmse(together, expected("q8_k", x, *weights)) < 1e-13
    start = 0
    for w in weights:  # which change no bit of each other
        rows = w.type.dims[0]
        assert run(product("q8_k", w), [x, w], (6, rows), cpu).tobytes() == together[:, start : start + rows].tobytes()
        start += rows


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("fmt", ["Q4_1", "Q4_K"])
def test_a_position_has_the_same_bits_alone_and_among_others(fmt: str, cpu: Cpu) -> None:
    w, x = weight(fmt, 29, 256), activations(11, 256)
    what = product(SCHEMES[fmt], w)
    together = run(what, [x, w], (11, 29), cpu)
    for n in (1, 2, 3, 4, 7):
        for start in range(11 - n):
            part = run(what, [x[start : start + n].copy(), w], (n, 29), cpu)
            assert part.tobytes() == together[start : start + n].tobytes()


@pytest.mark.contract("DET-THREADS-1")
def test_threads_do_not_change_a_bit() -> None:
    w, x = weight("Q6_K", 200, 256), activations(17, 256)
    what = product("q8_k", w)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(run(what, [x, w], (17, 200), RUNNABLE[-1]).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("fmt", ["Q4_0", "Q5_1", "Q5_K"])
def test_hard_rows_and_what_is_no_number(fmt: str) -> None:
    """Rows without NaN and Inf are as declared; one with them has NaN all along, and the others do not see it."""
    w, x = weight(fmt, 12, 512), hard_rows(512)
    what = product(SCHEMES[fmt], w)
    got = run(what, [x, w], (len(x), 12), RUNNABLE[-1])
    assert np.isnan(got[7]).all()
    tame = [row for row in range(len(x)) if row not in (7, 8)]  # beyond float16 in the other
    with np.errstate(all="ignore"):
        wanted = expected(SCHEMES[fmt], x, w)
    for row in tame:
        np.testing.assert_allclose(got[row], wanted[row], rtol=1e-4, atol=1e-6 * (np.abs(wanted[row]).max() + 1e-30))
    assert run(what, [x[tame].copy(), w], (len(tame), 12), RUNNABLE[-1]).tobytes() == got[tame].tobytes()


@pytest.mark.contract("ARITHMETIC-KERNELS-2")
@pytest.mark.each_choice
@pytest.mark.parametrize("fmt", WHOLE_FORMATS)
def test_levels_that_fuse_products_and_sums_give_the_same_bits(fmt: str) -> None:
    """Whatever their instructions, and however many rows lie side by side."""
    columns = columns_of(fmt)
    w, x = weight(fmt, 21, columns, seed=3), activations(5, columns)
    found = {run(product(SCHEMES[fmt], w), [x, w], (5, 21), cpu).tobytes() for cpu in RUNNABLE if cpu.fma}
    assert len(found) <= 1

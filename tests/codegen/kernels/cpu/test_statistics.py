"""The statistics kernel, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.cpu.objects import llvm_target
from aprgraph.codegen.kernels.cpu.statistics import chunk_statistics, tensor_statistics
from aprgraph.graph.calling_convention import CHUNKS_KERNEL, STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL
from aprgraph.runtime.kernel_values import statistics_from_rows, statistics_of_all
from aprgraph.runtime.trace.statistics import compute_statistics, statistics_from_sums
from tests.support.kernels import RUNNABLE

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("count", [1, 7, 8, STATISTICS_CHUNK, STATISTICS_CHUNK + 1, 40_000])
def test_statistics_kernel_agrees_with_numpy(count: int, cpu: Cpu) -> None:
    kernel = tvm.compile(tvm.IRModule({STATISTICS_KERNEL: tensor_statistics(cpu)}), llvm_target(cpu)).mod[STATISTICS_KERNEL]
    # Of the largest numbers, f32 has no squares.
    for spoiled, size in ((False, 1), (True, 1), (False, 1e37), (True, 1e37)):
        x = (size * (3 + activations(count))).astype(np.float32)
        if spoiled:
            x[RNG.integers(0, count, 5)] = np.nan
            x[RNG.integers(0, count, 3)] = np.inf
            x[0] = -np.inf
        rows = np.full((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), np.nan)
        result = tvm.runtime.tensor(rows)
        kernel(tvm.runtime.tensor(x), result)
        rows = result.numpy()
        nan, inf = (int(column.sum()) for column in rows[:, :2].T)
        got = statistics_from_sums(count, nan, inf, rows[:, 2].min(), rows[:, 3].max(), rows[:, 4].sum(), rows[:, 5].sum())
        expected = compute_statistics(x)
        assert (got.count, got.nan, got.inf, got.min, got.max) == (expected.count, expected.nan, expected.inf, expected.min, expected.max)
        if expected.mean is not None:
            assert got.mean == pytest.approx(expected.mean, rel=1e-12)
            assert got.rms == pytest.approx(expected.rms, rel=1e-12)


@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("counts", [[3], [5, STATISTICS_CHUNK, 1], [7, 20 * STATISTICS_CHUNK + 9, 40, 8, 1, STATISTICS_CHUNK - 1]], ids=len)
def test_tensors_that_lie_anywhere_get_the_statistics_that_each_gets_alone(counts: list[int], cpu: Cpu) -> None:
    """With gaps between them, in any order, on one thread or several; one has no finite element."""
    compiled = tvm.compile(
        tvm.IRModule({STATISTICS_KERNEL: tensor_statistics(cpu), CHUNKS_KERNEL: chunk_statistics(cpu)}), llvm_target(cpu)
    ).mod
    memory = activations(sum(counts) + 16 * len(counts))
    memory[RNG.integers(0, memory.size, 9)] = np.nan
    ends = np.cumsum(np.array(counts) + 16)
    memory[: ends[0]] = np.nan
    values = [memory[end - count : end] for count, end in zip(counts, ends, strict=True)][::-1]
    found = statistics_of_all(compiled[CHUNKS_KERNEL], tvm_ffi.from_dlpack, [(value, value.ctypes.data) for value in values])
    for value, statistics in zip(values, found, strict=True):
        alone = tvm.runtime.tensor(np.full((-(-value.size // STATISTICS_CHUNK), STATISTICS_COLUMNS), np.nan))
        compiled[STATISTICS_KERNEL](tvm.runtime.tensor(value), alone)
        assert statistics == statistics_from_rows(value.size, alone.numpy())

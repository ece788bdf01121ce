"""The CUDA emulator itself: right kernels give right numbers, and each kind of wrong one is told from them.

What the tests of CUDA kernels believe rests on the second half.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.codegen.cuda.source import build_source
from aprgraph.codegen.kernels.cuda.emitter import launch
from aprgraph.codegen.tir import Parameters, assign, build_function, f32
from tests.support.cuda_emulator import CompileError, EmulationError, InOut, Kernels, Out, call_host, compile_source, host_compiler

pytestmark = pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")

ORDERS = ("ascending", "descending", 1, 2)


def kernel(parameters: str, body: str) -> Kernels:
    """The kernel k, in the manner of TVM's source."""
    prelude = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n#define uint unsigned int\n#define ushort unsigned short\n"
    return compile_source(f'{prelude}extern "C" __global__ void __launch_bounds__(256) k({parameters}) {{\n{body}\n}}\n')


def fault(kernels: Kernels, block: int, args: list[Any], grid: int = 1) -> str:
    """The message of a launch that must fail."""
    with pytest.raises(EmulationError) as caught:
        kernels.launch("k", grid, block, args)
    return str(caught.value)


# --- right kernels


def test_threads_of_a_block_exchange_through_shared_memory() -> None:
    kernels = kernel(
        "float* __restrict__ x, float* __restrict__ out",
        """
        __shared__ alignas(64) float s[64];
        s[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
        __syncthreads();
        out[((int64_t)blockIdx.x) * (int64_t)64 + threadIdx.x] = s[63 - threadIdx.x];
        """,
    )
    x = np.arange(192, dtype=np.float32).reshape(3, 64)
    (out,) = kernels.launch("k", 3, 64, [x, Out((3, 64))], orders=ORDERS)
    np.testing.assert_array_equal(out, x[:, ::-1])
    assert kernels["k"].shared_bytes == 256
    assert kernels["k"].most_threads == 256


def test_lanes_of_a_warp_exchange_registers() -> None:
    kernels = kernel(
        "float* x, float* sums, uint* bits, int* up, double* down, int* first, int* counts",
        """
        float v = x[threadIdx.x];
        for (int d = 16; d > 0; d >>= 1) v = v + __shfl_xor_sync((uint)4294967295, v, d);
        sums[threadIdx.x] = v;
        bits[threadIdx.x] = __ballot_sync(0xffffffff, x[threadIdx.x] > 0.0f);
        up[threadIdx.x] = __shfl_up_sync(0xffffffff, (int)threadIdx.x, 3, 8);
        down[threadIdx.x] = __shfl_down_sync(0xffffffff, (double)threadIdx.x, 2);
        first[threadIdx.x] = __shfl_sync(0xffffffff, (int)threadIdx.x, 0);
        __syncwarp();
        counts[threadIdx.x] = __popc(bits[threadIdx.x]) + 100 * __any_sync(~0u, threadIdx.x == 40)
            + 1000 * __all_sync(~0u, threadIdx.x < 32) + __reduce_max_sync(~0u, threadIdx.x) * 10000;
        """,
    )
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    outputs = [Out(64), Out(64, np.uint32), Out(64, np.int32), Out(64, np.float64), Out(64, np.int32), Out(64, np.int32)]
    sums, bits, up, down, first, counts = kernels.launch("k", 1, 64, [x, *outputs], orders=ORDERS)
    lanes = np.arange(64)
    for half in (slice(0, 32), slice(32, 64)):
        expected = x[half].copy()
        for distance in (16, 8, 4, 2, 1):
            expected = expected + expected[np.arange(32) ^ distance]
        np.testing.assert_array_equal(sums[half], expected)
        assert (bits[half] == sum(1 << lane for lane in range(32) if x[half][lane] > 0)).all()
    np.testing.assert_array_equal(up, np.where(lanes % 8 >= 3, lanes - 3, lanes))
    np.testing.assert_array_equal(down, np.where(lanes % 32 < 30, lanes + 2, lanes))
    np.testing.assert_array_equal(first, lanes // 32 * 32)
    positive = np.repeat([(x[:32] > 0).sum(), (x[32:] > 0).sum()], 32)
    np.testing.assert_array_equal(counts, positive + np.repeat([1000 + 310000, 100 + 630000], 32))


def test_grids_and_blocks_have_three_dimensions() -> None:
    kernels = kernel(
        "int* out",
        """
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        out[block * 30 + thread] = __popc(__ballot_sync(0x3fffffff, 1)) * 1000 + block * 30 + thread;
        """,
    )
    (out,) = kernels.launch("k", (2, 3, 4), (5, 3, 2), [Out(24 * 30, np.int32)], orders=ORDERS)
    np.testing.assert_array_equal(out, 30000 + np.arange(24 * 30))


def test_dynamic_shared_memory() -> None:
    kernels = kernel(
        "int* out",
        "extern __shared__ __align__(16) int s[];\ns[threadIdx.x] = threadIdx.x;\n__syncthreads();\nout[threadIdx.x] = s[threadIdx.x ^ 1];",
    )
    (out,) = kernels.launch("k", 1, 8, [Out(8, np.int32)], dynamic_shared=32)
    np.testing.assert_array_equal(out, np.arange(8) ^ 1)
    with pytest.raises(
        EmulationError, match="wrote 4 bytes, the first 0 bytes beyond the end of shared array '\\(dynamic\\)' \\(28 bytes\\)"
    ):
        kernels.launch("k", 1, 8, [Out(8, np.int32)], dynamic_shared=28)


def test_kernels_share_functions() -> None:
    kernels = compile_source("""
        __device__ int twice(int x) { return x * 2; }
        extern "C" __global__ void a(int* out);
        extern "C" __global__ void a(int* out) { out[threadIdx.x] = twice(threadIdx.x); }
        __device__ int thrice(int x) { return x * 3; }
        extern "C" __global__ void b(int* out) { out[threadIdx.x] = twice(thrice(threadIdx.x)); }
    """)
    assert kernels.names == ("a", "b")
    for name, factor in (("a", 2), ("b", 6)):
        np.testing.assert_array_equal(kernels.launch(name, 1, 9, [Out(9, np.int32)])[0], np.arange(9) * factor)


def test_numbers_take_the_declared_type() -> None:
    kernels = kernel("double* out, int64_t n, float f, signed char c, bool b", "out[0] = n; out[1] = f; out[2] = c; out[3] = b;")
    (out,) = kernels.launch("k", 1, 1, [Out(4, np.float64), 1 << 40, 0.1, -3, True])
    np.testing.assert_array_equal(out, [2.0**40, np.float64(np.float32(0.1)), -3, 1])


def test_arithmetic_is_as_written() -> None:
    kernels = kernel(
        "float* x, float* out",
        "out[0] = x[0] * x[1] + x[2]; out[1] = fmaf(x[0], x[1], x[2]); out[2] = x[3] / 2.0f; out[3] = min(x[4], x[0]);",
    )
    x = np.float32([1 + 2**-12, 1 + 2**-12, -1, 2**-148, np.nan])
    (out,) = kernels.launch("k", 1, 1, [x, Out(4)])
    # Two roundings, and one; a subnormal number; of NaN and a number the number.
    np.testing.assert_array_equal(out, np.float32([2**-11, 2**-11 + 2**-24, 2**-149, x[0]]))


def test_half_precision_is_numpys() -> None:
    """All patterns to float; to half precision, each value, and the values halfway between two and beside that."""
    kernels = kernel(
        "ushort* bits, float* from_half, float* from_bfloat, float* x, half* to_half, float* y, nv_bfloat16* to_bfloat",
        """
        int i = blockIdx.x * 256 + threadIdx.x;
        ushort v_ = bits[i];
        from_half[i] = ((float)(*(half *)(&(v_))));
        from_bfloat[i] = ((float)(*(nv_bfloat16 *)(&(v_))));
        for (int j = 0; j < 4; ++j) to_half[i * 4 + j] = ((half)x[i * 4 + j]);
        for (int j = 0; j < 4; ++j) to_bfloat[i * 4 + j] = ((nv_bfloat16)y[i * 4 + j]);
        """,
    )
    bits = np.arange(65536, dtype=np.uint16)
    half, bfloat = bits.view(np.float16).astype(np.float32), bits.view(ml_dtypes.bfloat16).astype(np.float32)
    x = _and_halfway(half, 13)
    y = _and_halfway(bfloat, 16)
    outputs = [Out(65536), Out(65536), x, Out(4 * 65536, np.float16), y, Out(4 * 65536, ml_dtypes.bfloat16)]
    from_half, from_bfloat, to_half, to_bfloat = kernels.launch("k", 256, 256, [bits, *outputs])
    np.testing.assert_array_equal(from_half, half)
    np.testing.assert_array_equal(from_bfloat, bfloat)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(to_half, x.astype(np.float16))
        np.testing.assert_array_equal(to_bfloat.astype(np.float32), y.astype(ml_dtypes.bfloat16).astype(np.float32))


def _and_halfway(values: np.ndarray, dropped: int) -> np.ndarray:
    """Each value, and with the first of the ``dropped`` lowest bits set: so, one less and one more."""
    raw = values.view(np.uint32)
    half = np.uint32(1 << (dropped - 1))
    return np.stack([raw, raw + half, raw + half - 1, raw + half + 1], axis=1).reshape(-1).view(np.float32)


# --- what depends on chance


def test_a_missing_barrier_shows() -> None:
    body = "__shared__ float s[64];\ns[threadIdx.x] = x[threadIdx.x];\n{}\nout[threadIdx.x] = s[threadIdx.x ^ {}];"
    x = np.arange(64, dtype=np.float32)
    for barrier, distance in (("", 63), ("", 1), ("__syncwarp();", 63)):
        kernels = kernel("float* x, float* out", body.format(barrier, distance))
        assert "depend on the order of threads" in fault(kernels, 64, [x, Out(64)])
    for barrier, distance in (("__syncthreads();", 63), ("__syncwarp();", 1)):
        kernel("float* x, float* out", body.format(barrier, distance)).launch("k", 1, 64, [x, Out(64)])


def test_blocks_that_depend_on_each_other_show() -> None:
    kernels = kernel("float* x", "x[blockIdx.x] = x[(blockIdx.x + 1) % 4] + 1.0f;")
    assert "argument 0 (x): 4 of 4 elements depend on the order" in fault(kernels, 1, [InOut(np.zeros(4, np.float32))], grid=4)


@pytest.mark.parametrize(
    "body",
    [
        "__shared__ int s[32];\nif (threadIdx.x > 0) s[threadIdx.x] = 1;\n__syncthreads();\nout[threadIdx.x] = s[threadIdx.x];",
        "alignas(64) int r[4];\nr[1] = 1;\nout[threadIdx.x] = r[threadIdx.x == 0 ? 0 : 1];",
        "int old = out[threadIdx.x];\nout[threadIdx.x] = threadIdx.x == 0 ? old + 1 : 1;",
    ],
    ids=["shared", "local", "output"],
)
def test_reading_what_nobody_wrote_shows(body: str) -> None:
    assert "1 of 32 elements depend on the order of threads or on memory that was not written" in fault(
        kernel("int* out", body), 32, [Out(32, np.int32)]
    )


def test_elements_that_were_not_written_are_told() -> None:
    kernels = kernel("float* out", "if (threadIdx.x != 5) out[threadIdx.x] = __int_as_float(-1);")
    assert "argument 0 (out): 1 of 32 elements were not written, the first [1, 1]" in fault(kernels, 32, [Out((8, 4))])
    out = kernels.launch("k", 1, 32, [Out((8, 4), partial=True)])
    assert np.argwhere(out.unwritten[0]).tolist() == [[1, 1]]
    assert np.isnan(out[0]).all()


# --- what is out of bounds


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("out[threadIdx.x] = x[threadIdx.x + 1];", "thread (31,0,0): line 6: invalid read at 0x"),
        ("out[threadIdx.x] = x[threadIdx.x + 1];", "0 bytes beyond the end of argument 0 (x) (128 bytes)"),
        ("out[threadIdx.x] = x[(int)threadIdx.x - 3];", "thread (2,0,0): line 6: invalid read at 0x"),
        ("out[threadIdx.x] = x[(int)threadIdx.x - 3];", "4 bytes before the start of argument 0 (x) (128 bytes)"),
        ("out[threadIdx.x + 100] = 1.0f;", "block (0,0,0), thread (0,0,0): line 6: invalid write"),
        ("out[threadIdx.x + 100] = 1.0f;", "272 bytes beyond the end of argument 1 (out) (128 bytes)"),
        ("out[(int)threadIdx.x - 1] = 1.0f;", "4 bytes before the start of argument 1 (out)"),
        ("*(float4*)(out + threadIdx.x / 4 * 4 + 4) = *(float4*)(x + threadIdx.x / 4 * 4);", "0 bytes beyond the end of argument 1 (out)"),
        ("out[threadIdx.x] = 1.0f;\nx[threadIdx.x] = 1.0f;", "line 7: invalid write at 0x"),
        ("out[threadIdx.x] = 1.0f;\nx[threadIdx.x] = 1.0f;", "at byte 0 of argument 0 (x) (128 bytes), which is only to be read"),
        ("out[threadIdx.x] = *(float*)0;", "invalid read at (nil), which is in no buffer"),
    ],
)  # fmt: skip
def test_accesses_outside_of_buffers_are_told(body: str, expected: str) -> None:
    said = fault(kernel("float* x, float* out", body), 32, [np.ones(32, np.float32), Out(32)])
    assert said.startswith("kernel k, block (0,0,0), thread (")
    assert expected in said
    assert f"in `{body.splitlines()[-1]}`" in said


def test_a_buffer_is_guarded_to_the_last_byte_written() -> None:
    """One of 13 bytes: no guard page lies at its end, but what was written there is seen."""
    kernels = kernel("signed char* out, int n", "for (int i = 0; i < n; ++i) out[i] = 1;")
    kernels.launch("k", 1, 1, [Out(13, np.int8), 13])
    said = fault(kernels, 1, [Out(13, np.int8), 14])
    assert said == "kernel k: wrote 1 bytes, the first 0 bytes beyond the end of argument 0 (out) (13 bytes); threads ascending"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("__shared__ float s[8];\ns[threadIdx.x] = 1.0f;", "thread (8,0,0): line 7: index 8 is outside of an array of type 'float [8]'"),
        ("__shared__ alignas(64) float s[8];\n*(float4*)(s + threadIdx.x * 4) = make_float4(1, 1, 1, 1);", "0 bytes beyond the end of shared array 's' (32 bytes)"),
        ("alignas(64) int r[4];\nr[(int)threadIdx.x - 1] = 1;", "thread (0,0,0): line 7: index -1 is outside of an array of type 'int [4]'"),
        ("alignas(64) int r[4];\n*(int2*)(r + threadIdx.x * 2) = make_int2(1, 1); out[0] = r[2];", "thread (2,0,0): line 7: access to type 'int' outside of the array"),
        ("out[threadIdx.x] = (*(float2*)(x + threadIdx.x)).x;", "thread (1,0,0): line 6: misaligned address 0x"),
        ("out[threadIdx.x] = 1 << (threadIdx.x + 20);", "thread (12,0,0): line 6: shift of type 'int' by 32"),
        ("out[threadIdx.x] = 1 / (int)threadIdx.x;", "thread (0,0,0): line 6: division of type 'int' by 0"),
    ],
)  # fmt: skip
def test_accesses_outside_of_arrays_are_told(body: str, expected: str) -> None:
    assert expected in fault(kernel("float* x, float* out", body), 32, [np.ones(64, np.float32), Out(32)])


def test_after_a_fault_the_handlers_are_what_they_were() -> None:
    def handler(number: int) -> bytes:
        held = ctypes.create_string_buffer(256)
        assert ctypes.CDLL(None).sigaction(number, None, held) == 0
        return held.raw[: ctypes.sizeof(ctypes.c_void_p)]

    numbers = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)
    before = [handler(number) for number in numbers]
    kernels = kernel("float* out", "out[threadIdx.x] = 1.0f;")
    assert "invalid write" in fault(kernels, 33, [Out(32)])
    assert [handler(number) for number in numbers] == before
    kernels.launch("k", 1, 32, [Out(32)])


# --- threads that do not meet


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("if (threadIdx.x < 40) __syncthreads();",
         "divergent barrier: thread (0,0,0) waits at __syncthreads (line 6), but thread (40,0,0) has left the kernel"),
        ("if (threadIdx.x < 40) {\n__syncthreads();\n} else {\n__syncthreads();\n}",
         "divergent barrier: thread (0,0,0) waits at __syncthreads (line 7), but thread (40,0,0) waits at __syncthreads (line 9)"),
        ("if (threadIdx.x != 9) out[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);",
         "divergent barrier: thread (0,0,0) waits at __shfl_xor_sync of lanes 0xffffffff (line 6), but thread (9,0,0) has left the kernel"),
        ("if (threadIdx.x % 2) { __syncwarp(); } else { __ballot_sync(0xffffffff, 1); }",
         "divergent barrier: thread (0,0,0) waits at __ballot_sync of lanes 0xffffffff (line 6), but thread (1,0,0) waits at __syncwarp"),
        ("out[threadIdx.x] = __shfl_sync(threadIdx.x < 32 ? ~0u : 0xffffu, 1.0f, 3);",
         "thread (48,0,0): __shfl_sync (line 6) with a mask that lacks the thread's own lane 16"),
        ("if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, 1.0f, 1);",
         "thread (15,0,0): __shfl_down_sync (line 6) reads lane 16, which is not in its mask"),
    ],
)  # fmt: skip
def test_threads_that_do_not_meet_are_told(body: str, expected: str) -> None:
    assert expected in fault(kernel("float* out", body), 64, [Out(64, partial=True)])


def test_lanes_without_threads_need_not_come() -> None:
    kernels = kernel(
        "int* out", "out[threadIdx.x] = __popc(__ballot_sync(0xffffffff, 1)) + __shfl_xor_sync(0xffffffff, (int)threadIdx.x, 1);"
    )
    (out,) = kernels.launch("k", 1, 40, [Out(40, np.int32)])
    np.testing.assert_array_equal(out, np.repeat([32, 8], [32, 8]) + (np.arange(40) ^ 1))
    assert "reads lane 9, which the block has no thread for" in fault(kernels, 41, [Out(41, np.int32)])


# --- what cannot be compiled, or launched


def test_more_shared_memory_than_a_block_has_does_not_compile() -> None:
    with pytest.raises(CompileError, match=r"Entry function 'k' uses too much shared data \(0xc040 bytes, 0xc000 max\)"):
        kernel("float* out", "__shared__ alignas(64) float a[12288]; __shared__ float4 b[4];")


@pytest.mark.parametrize("function", ["__expf(x[0])", "__fdividef(x[0], 3.0f)", "__sinf(x[0])"])
def test_approximate_functions_do_not_compile(function: str) -> None:
    with pytest.raises(CompileError, match="was not declared"):
        kernel("float* x", f"x[0] = {function};")


def test_launches_that_a_device_refuses() -> None:
    kernels = kernel("float* out", "out[0] = 1.0f;")
    assert "a grid of 0 x 1 x 1 blocks" in fault(kernels, 32, [Out(1)], grid=0)
    assert "blocks of 512 threads; __launch_bounds__ says at most 256" in fault(kernels, 512, [Out(1)])
    assert "kernel k takes 1 arguments: float* out; 2 were given" in fault(kernels, 1, [Out(1), 1])
    assert "out is float*; int was given" in fault(kernels, 1, [1])


# --- kernels with the host code that launches them


def test_tvms_host_code_launches_them() -> None:
    def emit(parameters: Parameters) -> None:
        n = parameters.size("n")
        x, out = parameters.buffer("x", ("n", 3), "float32"), parameters.buffer("out", ("n", 3), "float32")
        for factor in (2.0, 3.0):  # two launches, the second on what the first wrote
            with launch(n + shift, 3) as (row, column):
                assign(out, (x if factor == 2.0 else out)[row, column] * f32(factor), [row, column])

    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    for shift in (0, 1):
        host, source = build_source({"scaled": build_function("scaled", emit)}, "x86-64")
        kernels = compile_source(source.code)
        assert kernels.names == ("scaled_kernel", "scaled_kernel_1")
        if shift == 0:
            (out,) = call_host(host, "scaled", kernels, source.functions, [x, Out((5, 3))])
            np.testing.assert_array_equal(out, x * 6)
            with pytest.raises(ValueError, match="when calling"):
                call_host(host, "scaled", kernels, source.functions, [x[:, :2], Out((5, 3))])
        else:
            with pytest.raises(EmulationError, match=r"kernel scaled_kernel, block \(5,0,0\), thread \(1,0,0\): line \d+: invalid read"):
                call_host(host, "scaled", kernels, source.functions, [x, Out((5, 3))])

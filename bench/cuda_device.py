"""What bench/cuda.py measures with: the device and its clock, kernels built for it, and the peers (a copy, cuBLAS, a loop of FMAs)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T  # noqa: N812 -- TVM's own convention

from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.codegen.cuda.compiler import compile_fat_binary
from aprgraph.codegen.cuda.host_code import kernel_functions
from aprgraph.codegen.cuda.source import build_source
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import THREADS, Emitter, ceil_div, get, launch, put, registers
from aprgraph.codegen.linker import link, object_of
from aprgraph.codegen.tir import Parameters, build_function, f32, i64
from aprgraph.graph.errors import DeviceError
from aprgraph.graph.machine_code import MachineCode
from aprgraph.runtime.cuda.driver import Driver, Gpu
from aprgraph.runtime.cuda.session import CudaSession

#: Something to time: it puts work into the default stream and comes back. Calls are numbered.
Action = Callable[[int], Any]

_DEVICE_TO_DEVICE = 3
_MULTIPROCESSORS, _L2_BYTES = 16, 38
_HOST_CPU = "x86-64-v2"

#: The loop of FMAs: as many sums that do not wait for each other, and multiply-adds of each in one turn.
_CHAINS, _UNROLL = 16, 8
_BLOCKS_A_MULTIPROCESSOR = 8
_FMA_LOOP = "fma_loop"
#: Turns of that loop at most.
_MOST_TURNS = 1 << 20

#: What a batch of calls should take, and calls in it at most: the device holds about a thousand launches that wait.
_BATCH_SECONDS, _MOST_CALLS = 5e-3, 100


class TimedDriver(Driver):
    """The driver, with the time between events, copies on the device, and versions."""

    def seconds_between(self, first: Any, last: Any) -> float:
        milliseconds = ctypes.c_float()
        self._check("cudaEventElapsedTime", ctypes.byref(milliseconds), first, last)
        return milliseconds.value / 1e3

    def copy_on_device(self, to: int, source: int, nbytes: int) -> None:
        self._copy(to, source, nbytes, _DEVICE_TO_DEVICE, None)

    def attribute(self, gpu: Gpu, number: int) -> int:
        value = ctypes.c_int()
        self._check("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), ctypes.c_int(gpu.index))
        return value.value

    def versions(self) -> dict[str, str]:
        """Of the driver and of the runtime library."""
        found = {}
        for name, function in (("driver", "cudaDriverGetVersion"), ("runtime", "cudaRuntimeGetVersion")):
            value = ctypes.c_int()
            self._check(function, ctypes.byref(value))
            found[name] = f"CUDA {value.value // 1000}.{value.value % 1000 // 10}"
        try:
            said = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        except OSError:
            said = None
        if said is not None:
            found["driver"] = f"{said[0]} ({found['driver']})"
        return found


@dataclass(frozen=True)
class Times:
    """Seconds of one call of each action, a number a round; the rounds of all actions belong together."""

    rounds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratios(self, measured: str, peer: str) -> list[float]:
        """Time of ``measured`` over that of ``peer``, round by round, in order of size."""
        return sorted(a / b for a, b in zip(self.rounds[measured], self.rounds[peer], strict=True))


class Device:
    """A GPU that things are timed on. ``quick``: everything once, for a CPU that emulates one."""

    def __init__(self, driver: TimedDriver, gpu: Gpu, scratch: Path, rounds: int, *, quick: bool) -> None:
        self.driver, self.gpu, self.quick = driver, gpu, quick
        self.architecture = Architecture(*gpu.compute_capability)
        self.multiprocessors, self.l2_bytes = driver.attribute(gpu, _MULTIPROCESSORS), driver.attribute(gpu, _L2_BYTES)
        self._scratch, self._rounds = scratch, rounds
        self._events = driver.new_event(), driver.new_event()
        self.session = self.build({})
        self._threads = self.multiprocessors * _BLOCKS_A_MULTIPROCESSOR * THREADS
        self._factors = self.session.tensor(np.array([0.999, 0.001], dtype=np.float32))
        self._turns, self._out = self.empty((_MOST_TURNS,), "uint8"), self.empty((self._threads,))
        self._seconds_a_turn = 0.0
        self._seconds_a_turn = 0.0 if quick else self._batch(lambda _: self.fma_loop(2000), 3, 0.0) / 2000

    # -- kernels and memory ------------------------------------------------------------------------------------------------

    def build(self, requests: Mapping[str, KernelRequest]) -> CudaSession:
        """A session with the kernels of ``requests``, and the loop of FMAs."""
        host, source = build_source({**kernel_functions(requests), _FMA_LOOP: _fma_loop()}, _HOST_CPU)
        number = len(list(self._scratch.glob("kernels-*.so")))
        library = self._scratch / f"kernels-{number}.so"
        link([object_of(host)], library)
        code = [MachineCode(data, library) for data in (library.read_bytes(), compile_fat_binary(source.code, [self.architecture]))]
        # Without a model: nothing here is a weight of one.
        no_model: Any = None
        return CudaSession(*code, source.functions, no_model, self.driver, self.gpu, capacity=0)

    def empty(self, shape: Sequence[int], dtype: str = "float32") -> Any:
        return self.session._empty(shape, dtype)

    def fetch(self, tensor: Any) -> np.ndarray:
        found: list[np.ndarray] = []
        self.session.fetch([tensor], lambda array: found.append(array.copy()))
        self.session.wait()
        return found[0]

    # -- peers -------------------------------------------------------------------------------------------------------------

    def fma_loop(self, turns: int) -> None:
        """Multiply-adds in registers and nothing else, on the whole device."""
        self.session.kernels[_FMA_LOOP](self._factors, self._turns._create_view((turns,)), self._out)

    def fma_loop_flop(self, turns: int) -> int:
        return 2 * self._threads * _CHAINS * _UNROLL * turns

    # -- the clock ---------------------------------------------------------------------------------------------------------

    def time(self, actions: Mapping[str, Action]) -> Times:
        """Each action in turn, some rounds; the first two are not counted."""
        plans = {name: self._plan(action) for name, action in actions.items()}
        rounds: dict[str, list[float]] = {name: [] for name in actions}
        for number in range(self._rounds + (0 if self.quick else 2)):
            for name, action in actions.items():
                seconds = self._batch(action, *plans[name])
                if self.quick or number >= 2:
                    rounds[name].append(seconds)
        return Times(rounds)

    def _plan(self, action: Action) -> tuple[int, float]:
        """How many calls make a batch, and how long the device has to be held up for them all to be put into its stream."""
        self._batch(action, 1, 0.0)
        if self.quick:
            return 1, 0.0
        start = time.perf_counter()
        for number in range(5):
            action(number)
        host = (time.perf_counter() - start) / 5
        calls = max(1, min(_MOST_CALLS, int(_BATCH_SECONDS / self._batch(action, 5, 1e-3))))
        return calls, 1e-4 + 1.5 * host * calls

    def _batch(self, action: Action, calls: int, held: float) -> float:
        """Seconds of one of ``calls`` calls. Behind a loop that takes ``held`` seconds, so that none of them waits for Python."""
        first, last = self._events
        if self._seconds_a_turn:
            self.fma_loop(max(1, min(_MOST_TURNS, int(held / self._seconds_a_turn))))
        self.driver.record(first)
        for number in range(calls):
            action(number)
        self.driver.record(last)
        self.driver.wait(last)
        return self.driver.seconds_between(first, last) / calls


def _fma_loop() -> Any:
    """factors [2], turns [m] (whose length alone counts) -> out [n], a thread each."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        factors = parameters.buffer("factors", (2,), "float32")
        parameters.buffer("turns", ("m",), "uint8")
        out = parameters.buffer("out", ("n",), "float32")
        n = parameters.size("n")
        with launch(ceil_div(n, THREADS), THREADS) as (block, thread):
            sums, factor, total = registers(_CHAINS), registers(2), registers(1)
            for i in range(2):
                put(factor, factors[i64(i)], i)
            for i in range(_CHAINS):
                put(sums, T.Cast("float32", thread) + f32(i), i)
            with T.serial(i64(0), parameters.size("m")):
                for _ in range(_UNROLL):
                    for i in range(_CHAINS):
                        put(sums, emitter.fma(get(sums, i), get(factor, 0), get(factor, 1)), i)
            put(total, f32(0.0))
            for i in range(_CHAINS):
                put(total, get(total) + get(sums, i))
            index = block * THREADS + thread
            with T.If(index < n), T.Then():
                put(out, get(total), index)

    return build_function(_FMA_LOOP, emit)


class CuBlas:
    """NVIDIA's matrix products, in float32: without TF32, and without the emulation by lower precision that newer versions know."""

    _NO_TRANSPOSE, _TRANSPOSE = 0, 1

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        self._check("cublasCreate_v2", ctypes.byref(self._handle))
        self._check("cublasSetMathMode", self._handle, ctypes.c_int(0))  # CUBLAS_DEFAULT_MATH: sgemm computes in float32

    @classmethod
    def find(cls, named: Path | None) -> CuBlas | None:
        """From the file ``named``, from NVIDIA's packages on PyPI (PyTorch brings them), or of the CUDA toolkit; None if there is none."""
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        os.environ["CUBLAS_EMULATE_SINGLE_PRECISION"] = "0"
        for path in [named] if named is not None else _cublas_places():
            try:
                # It needs the other, which lies beside it.
                ctypes.CDLL(str(path).replace("libcublas.", "libcublasLt."), mode=ctypes.RTLD_GLOBAL)
                return cls(ctypes.CDLL(str(path)))
            except OSError:  # noqa: PERF203 -- a few places, once
                continue
        if named is not None:
            raise DeviceError(f"{named}: cannot be loaded as cuBLAS, or has no libcublasLt beside it")
        return None

    @property
    def name(self) -> str:
        value = ctypes.c_int()
        self._check("cublasGetVersion_v2", self._handle, ctypes.byref(value))
        # 13.1.0 says 130100, 12.9.1 says 120901.
        return f"cuBLAS {value.value // 10000}.{value.value // 100 % 100}.{value.value % 100}"

    def product(self, x: Any, w: Any, out: Any) -> None:
        """out [n, R] = x [n, C] · w [R, C]ᵀ."""
        n, columns = (int(dim) for dim in x.shape)
        rows = int(w.shape[0])
        one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        x_at, w_at, out_at = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, w, out))
        integers = [ctypes.c_int(value) for value in (rows, n, columns)]
        # Its matrices lie by columns, so that ours are their transposes: outᵀ = w · xᵀ.
        self._check(
            "cublasSgemm_v2", self._handle, ctypes.c_int(self._TRANSPOSE), ctypes.c_int(self._NO_TRANSPOSE), *integers,
            ctypes.byref(one), w_at, integers[2], x_at, integers[2], ctypes.byref(zero), out_at, integers[0],
        )  # fmt: skip

    def _check(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise DeviceError(f"{function} failed with status {code}")


def _cublas_places() -> list[Path]:
    names = [f"libcublas.so.{major}" for major in (13, 12)]
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    home = os.environ.get("CUDA_HOME")
    toolkits = [*([Path(home)] if home else []), Path("/usr/local/cuda")]
    found = [path for name in names for root in packages for path in sorted(root.glob(f"**/lib/{name}"))]
    return [*found, *(toolkit / "lib64" / name for toolkit in toolkits for name in names), *(Path(name) for name in names)]

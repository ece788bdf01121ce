"""CUDA kernels on a real GPU, as tests/support/cuda_kernels.py runs them on an emulated one: the same tests call both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm

from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.codegen.cuda.compiler import compile_fat_binary
from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.cuda.host_code import kernel_functions
from aprgraph.codegen.cuda.source import build_source
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.linker import link, object_of
from aprgraph.graph.machine_code import MachineCode
from aprgraph.runtime.cuda.driver import Gpu, load_driver
from aprgraph.runtime.cuda.session import CudaSession
from tests.support.cuda_emulator import InOut, Out
from tests.support.cuda_emulator.runs import POISONS, Argument
from tests.support.kernels import Weight

#: Kernels that are compiled at once, by a compiler that works on one processor.
_TOGETHER = 8


class DeviceKernels:
    """The kernels of ``requests``, and the statistics kernel, on ``gpu``. Built in ``directory``."""

    def __init__(self, requests: Iterable[KernelRequest], gpu: Gpu, directory: Path) -> None:
        by_symbol = list({request.symbol: request for request in requests}.items())
        self._kernels: dict[str, Any] = {}
        self._device = tvm.cuda(gpu.index)
        with ThreadPoolExecutor(os.cpu_count()) as compilers:
            waiting = []
            for number, start in enumerate(range(0, len(by_symbol), _TOGETHER)):
                functions = kernel_functions(dict(by_symbol[start : start + _TOGETHER]))
                host, source = build_source(functions, HOST_CPU)
                library = directory / f"{number}.so"
                link([object_of(host)], library)
                binary = compilers.submit(compile_fat_binary, source.code, [Architecture(*gpu.compute_capability)])
                waiting.append((functions, library, source.functions, binary))
        for functions, library, described, binary in waiting:
            # Without a model: it is there for weights alone.
            session = CudaSession(
                MachineCode(library.read_bytes(), library),
                MachineCode(binary.result(), library),
                described,
                None,
                load_driver(),
                gpu,
                capacity=0,
            )  # type: ignore[arg-type]
            self._kernels.update((symbol, session.kernels[symbol]) for symbol in functions)

    def call(self, symbol: str, args: Sequence[Argument]) -> npt.NDArray[Any]:
        """The one output among ``args`` of a kernel by name: twice, from memory that holds other bytes. Every element must be written."""
        (out,) = self.outputs(symbol, args)
        return out

    def outputs(self, symbol: str, args: Sequence[Argument]) -> list[npt.NDArray[Any]]:
        """All outputs, those that are read as well among them."""
        runs = [self._call_once(symbol, args, poison) for poison in POISONS]
        for first, second in zip(*runs, strict=True):
            poisoned = (
                (run.reshape(-1, 1).view(np.uint8) == poison).all(axis=1) for poison, run in zip(POISONS, (first, second), strict=True)
            )
            unwritten = np.logical_and(*poisoned)
            assert not unwritten.any(), f"{symbol}: {unwritten.sum()} of {unwritten.size} elements were not written"
            assert first.tobytes() == second.tobytes(), f"{symbol}: two runs gave different bits"
        return runs[0]

    def _call_once(self, symbol: str, args: Sequence[Argument], poison: int) -> list[npt.NDArray[Any]]:
        given: list[Any] = []
        outputs = []
        for arg in args:
            if isinstance(arg, (int, float)):
                given.append(arg)
                continue
            if isinstance(arg, Out):
                dtype = np.dtype(arg.dtype)
                values = np.full((*arg.dims[:-1], arg.dims[-1] * dtype.itemsize), poison, np.uint8).view(dtype)
            else:
                values = arg.values if isinstance(arg, InOut) else arg  # type: ignore[assignment]
            given.append(tvm.runtime.tensor(np.ascontiguousarray(values), self._device))
            outputs += [given[-1]] if isinstance(arg, (Out, InOut)) else []
        self._kernels[symbol](*given)
        return [np.array(out.numpy()) for out in outputs]

    def run(
        self, what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], result: Sequence[int] | InOut
    ) -> npt.NDArray[np.float32]:
        """Run the kernel of ``what``, whose output has the shape ``result``, or is it."""
        arrays = [array for operand in operands for array in (operand.packed if isinstance(operand, Weight) else [operand])]
        return self.call(what.symbol, [*arrays, *what.numbers.values(), result if isinstance(result, InOut) else Out(tuple(result))])


def tests_on_device(module: ModuleType) -> Mapping[str, Any]:
    """The tests of a module of tests/codegen/kernels/cuda, and the fixture that gives them kernels on the GPU."""

    @pytest.fixture(scope="module")
    def kernels(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
        return DeviceKernels(module.request, gpu, tmp_path_factory.mktemp("kernels"))

    return {"kernels": kernels} | {name: value for name, value in vars(module).items() if name.startswith("test_")}

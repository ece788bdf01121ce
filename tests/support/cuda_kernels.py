"""CUDA kernels in tests: built together, once a test file, and run on the CPU with the emulator's checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.cuda.host_code import kernel_functions
from aprgraph.codegen.cuda.source import DeviceSource, build_source
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.ir import Attr, TensorType
from tests.support import kernels
from tests.support.cuda_emulator import InOut, Kernels, Out, call_host, compile_source, host_compiler
from tests.support.cuda_emulator.runs import Argument
from tests.support.kernels import Weight

#: Kernels that are built at once.
_TOGETHER = 8


class Requests(list[KernelRequest]):
    """Makes requests, and remembers them: what a test file asks for at its top is built when its first test runs."""

    def __call__(self, op: str, operands: Sequence[TensorType], **attrs: Attr) -> KernelRequest:
        self.append(kernels.request(op, operands, **attrs))
        return self[-1]


class CudaKernels:
    """The kernels of requests, and the statistics kernel. Without a compiler the test that asks for them is skipped."""

    def __init__(self, requests: Iterable[KernelRequest]) -> None:
        if host_compiler() is None:
            pytest.skip("no g++ 12 or later, with which kernels are compiled for the CPU")
        functions = list(kernel_functions({request.symbol: request for request in requests}).items())
        self._built: dict[str, tuple[Any, DeviceSource, Future[Kernels]]] = {}
        # TVM works on some while the compiler works on those before.
        with ThreadPoolExecutor(1) as compiler:
            for start in range(0, len(functions), _TOGETHER):
                together = dict(functions[start : start + _TOGETHER])
                host, source = build_source(together, HOST_CPU)
                built = host, source, compiler.submit(compile_source, source.code)
                self._built.update(dict.fromkeys(together, built))

    def call(self, symbol: str, args: Sequence[Argument]) -> npt.NDArray[Any]:
        """The one output among ``args`` of a kernel by name. Raises EmulationError."""
        (out,) = self.outputs(symbol, args)
        return out

    def outputs(self, symbol: str, args: Sequence[Argument]) -> list[npt.NDArray[Any]]:
        """All outputs, those that are read as well among them."""
        host, source, kernels = self._built[symbol]
        return list(call_host(host, symbol, kernels.result(), source.functions, args))

    def run(
        self, what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], result: Sequence[int] | InOut
    ) -> npt.NDArray[np.float32]:
        """Run the kernel of ``what``, whose output has the shape ``result``, or is it. Raises EmulationError.

        Every element must have been written, alike in each order of threads.
        """
        arrays = [array for operand in operands for array in (operand.packed if isinstance(operand, Weight) else [operand])]
        return self.call(what.symbol, [*arrays, *what.numbers.values(), result if isinstance(result, InOut) else Out(tuple(result))])

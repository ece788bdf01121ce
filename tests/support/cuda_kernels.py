"""CUDA kernels in tests: built together, once a test file, and run on the CPU with the emulator's checks."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm

from aprgraph.codegen.cache.kernels import key_of, open_kernel_cache
from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.cuda.host_code import build_host_code
from aprgraph.codegen.cuda.source import DeviceSource
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.linker import link
from aprgraph.graph.calling_convention import STATISTICS_KERNEL
from aprgraph.graph.ir import Attr, TensorType
from tests.support import kernels
from tests.support.cuda_emulator import InOut, Kernels, Out, call_host, compile_source, host_compiler
from tests.support.cuda_emulator.runs import Argument
from tests.support.kernels import Weight

#: Kernels that are built at once.
_TOGETHER = 8
_EMITTERS = ("aprgraph.codegen.cuda.host_code",)


def _lowered(requests: Sequence[KernelRequest]) -> tuple[Any, DeviceSource]:
    """The host module of some kernels, and their source in CUDA."""
    kept = open_kernel_cache()
    key = key_of([request.content for request in requests], HOST_CPU, version("apache-tvm"), sources_digest(*_EMITTERS))
    name = f"{len(requests)}-emulated.{key}.cuda"
    found = kept.find(name)
    if found is None:
        host, source = build_host_code({request.symbol: request for request in requests})
        found = json.dumps([base64.b64encode(host).decode(), source.code, source.functions]).encode()
        kept.keep(name, found)
    host, *source = json.loads(found)
    with tempfile.TemporaryDirectory(prefix="aprgraph-tests-") as folder:  # the system's loader keeps what it has loaded
        path = Path(folder) / f"{key}.so"
        link([base64.b64decode(host)], path)
        return tvm.runtime.load_module(str(path)), DeviceSource(*source)


class Requests(list[KernelRequest]):
    """Makes requests, and remembers them: what a test file asks for at its top is built when its first test runs."""

    def __call__(self, op: str, operands: Sequence[TensorType], **attrs: Attr) -> KernelRequest:
        self.append(kernels.request(op, operands, **attrs))
        return self[-1]


class CudaKernels:
    """The kernels of requests, and the statistics kernel. Without a compiler the test that asks for them is skipped.

    They are compiled some at a time, when the first of these is run. What TVM makes of them is kept in the tests' cache, as the
    product keeps its kernels: under the digest of the requests and of the sources that emit the code.
    """

    def __init__(self, requests: Iterable[KernelRequest]) -> None:
        if host_compiler() is None:
            pytest.skip("no g++ 12 or later, with which kernels are compiled for the CPU")
        unique = list({request.symbol: request for request in requests}.values())
        groups = [unique[start : start + _TOGETHER] for start in range(0, len(unique), _TOGETHER)] or [[]]
        self._groups = {symbol: group for group in groups for symbol in (STATISTICS_KERNEL, *(request.symbol for request in group))}
        self._built: dict[str, tuple[Any, str, Kernels]] = {}

    def _kernel(self, symbol: str) -> tuple[Any, str, Kernels]:
        """The host module of a kernel, how its functions are described, and the group of emulated kernels that it is in."""
        if symbol not in self._built:
            group = self._groups[symbol]
            host, source = _lowered(group)
            built = host, source.functions, compile_source(source.code)
            self._built.update(dict.fromkeys([STATISTICS_KERNEL, *(request.symbol for request in group)], built))
        return self._built[symbol]

    def call(self, symbol: str, args: Sequence[Argument]) -> npt.NDArray[Any]:
        """The one output among ``args`` of a kernel by name. Raises EmulationError."""
        (out,) = self.outputs(symbol, args)
        return out

    def outputs(self, symbol: str, args: Sequence[Argument]) -> list[npt.NDArray[Any]]:
        """All outputs, those that are read as well among them."""
        host, functions, kernels = self._kernel(symbol)
        return list(call_host(host, symbol, kernels, functions, args))

    def run(
        self, what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], result: Sequence[int] | InOut
    ) -> npt.NDArray[np.float32]:
        """Run the kernel of ``what``, whose output has the shape ``result``, or is it. Raises EmulationError.

        Every element must have been written, alike in each order of threads.
        """
        arrays = [array for operand in operands for array in (operand.packed if isinstance(operand, Weight) else [operand])]
        return self.call(what.symbol, [*arrays, *what.numbers.values(), result if isinstance(result, InOut) else Out(tuple(result))])

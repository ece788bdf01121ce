"""Runs CUDA kernels in this process, on the CPU."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from .native import Engine
from .runs import Argument, Buffer, EmulationError, InOut, Out, Outputs, Run, WroteAround, run_all
from .toolchain.host_compiler import KernelLibrary
from .toolchain.translation import Kernel, Parameter
from .toolkit import toolkit

_SCALARS = {
    "bool": np.bool_, "signed char": np.int8, "char": np.int8, "int8_t": np.int8, "uchar": np.uint8, "unsigned char": np.uint8,
    "uint8_t": np.uint8, "short": np.int16, "int16_t": np.int16, "ushort": np.uint16, "unsigned short": np.uint16, "uint16_t": np.uint16,
    "int": np.int32, "int32_t": np.int32, "uint": np.uint32, "unsigned int": np.uint32, "unsigned": np.uint32, "uint32_t": np.uint32,
    "long": np.int64, "long long": np.int64, "int64_t": np.int64, "unsigned long long": np.uint64, "uint64_t": np.uint64,
    "half": np.float16, "__half": np.float16, "nv_bfloat16": ml_dtypes.bfloat16, "__nv_bfloat16": ml_dtypes.bfloat16,
    "float": np.float32, "double": np.float64,
}  # fmt: skip
_AROUND = 2


def compile_source(source: str) -> Kernels:
    """The kernels of CUDA ``source``, each ``extern "C" __global__ void``. Raises CompileError."""
    return Kernels(toolkit().compile(source), source)


class Kernels:
    """Compiled kernels, by name."""

    def __init__(self, library: KernelLibrary, source: str) -> None:
        self._declared = {kernel.name: kernel for kernel in library.kernels}
        self._lines = source.splitlines()
        self._handle = Engine.get().load(library.path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._declared)

    def __getitem__(self, name: str) -> Kernel:
        """The declaration of a kernel: its parameters, ``most_threads``, ``shared_bytes``."""
        return self._declared[name]

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Argument],
        *,
        orders: Sequence[str | int] = ("ascending", "descending"),
        dynamic_shared: int = 0,
    ) -> Outputs:
        """Run a kernel once for each of ``orders``: "ascending", "descending", or a number that seeds a shuffle.

        ``args`` are arrays, which the kernel may only read, Out, InOut, and numbers, which take the declared type. One order alone
        is run twice, as two runs tell what was not written. Raises EmulationError.
        """
        kernel = self._declared[name]
        if len(args) != len(kernel.parameters):
            signature = ", ".join(f"{parameter.type} {parameter.name}" for parameter in kernel.parameters)
            raise EmulationError(f"kernel {name} takes {len(kernel.parameters)} arguments: {signature}; {len(args)} were given")
        for argument, parameter in zip(args, kernel.parameters, strict=True):
            if isinstance(argument, (np.ndarray, Out, InOut)) != parameter.is_pointer:
                raise EmulationError(f"kernel {name}: {parameter.name} is {parameter.type}; {type(argument).__name__} was given")

        def execute(run: Run, values: Sequence[Buffer | float]) -> None:
            self.launch_once(name, grid, block, [v.address if isinstance(v, Buffer) else v for v in values], run, dynamic_shared)

        named = [f"kernel {name}: argument {index} ({parameter.name})" for index, parameter in enumerate(kernel.parameters)]
        return run_all(named, args, orders, execute)

    def launch_once(
        self, name: str, grid: int | Sequence[int], block: int | Sequence[int], values: Sequence[float], run: Run, dynamic_shared: int = 0
    ) -> None:
        """Run a kernel on ``values``: numbers, and addresses of guarded buffers. Raises EmulationError."""
        held = [_scalar(parameter, value) for parameter, value in zip(self._declared[name].parameters, values, strict=True)]
        code, said = Engine.get().launch(self._handle, name, _three(grid), _three(block), dynamic_shared, held, run.order, run.array_poison)
        if code:
            raise (WroteAround if code == _AROUND else EmulationError)(f"{self._quoted(said)}; threads {run.order}")

    def _quoted(self, message: str) -> str:
        """The message with the line of the source that it names."""
        found = re.search(r"\bline (\d+)", message)
        line = dict(enumerate(self._lines, start=1)).get(int(found[1])) if found else None
        return message if line is None else f"{message}, in `{line.strip()}`"


def _scalar(parameter: Parameter, value: float) -> npt.NDArray[Any]:
    """An argument as it lies in memory."""
    return np.array(value, dtype=np.uint64 if parameter.is_pointer else _SCALARS[parameter.type])


def _three(size: int | Sequence[int]) -> list[int]:
    sizes = [size] if isinstance(size, int) else [int(n) for n in size]
    return list(itertools.islice(itertools.chain(sizes, itertools.repeat(1)), 3))

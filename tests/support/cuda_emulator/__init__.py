"""CUDA without a GPU: kernels run on the CPU, where what a GPU would pass over in silence is an error.

In this process, without TVM's CUDA runtime::

    kernels = compile_source(source)  # CUDA C++, as TVM prints it
    (out,) = kernels.launch("scale_kernel", grid=4, block=32, args=[x, Out((4, 32)), 128])

Or through the host code that TVM makes, which knows the sizes: ``call_host(host, "scale", kernels, functions, [x, Out((4, 32))])``.

And for subprocesses, a CUDA toolkit, driver and device: ``toolkit().environment()`` holds the variables with which they find it.

Found are: reads and writes outside of buffers and of shared and local arrays, writes into inputs, misaligned vectors, outputs
that were not written, values that depend on the order of threads or on memory that nobody wrote, barriers and warp exchanges that not
all threads come to. engine/ runs kernels and stands in for driver and runtime, include/ for CUDA's headers, toolchain/ for nvcc.
"""

from .host_calls import call_host
from .kernels import Kernels, compile_source
from .runs import EmulationError, InOut, Out, Outputs
from .toolchain.host_compiler import CompileError, host_compiler
from .toolkit import NoHostCompiler, Toolkit, toolkit

__all__ = [
    "CompileError",
    "EmulationError",
    "InOut",
    "Kernels",
    "NoHostCompiler",
    "Out",
    "Outputs",
    "Toolkit",
    "call_host",
    "compile_source",
    "host_compiler",
    "toolkit",
]

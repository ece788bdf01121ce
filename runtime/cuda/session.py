"""A session whose weights, values and caches lie on a GPU."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import ARCHITECTURES, PREFILL_CHUNK, TARGET
from aprgraph.graph.block_formats import weight_storage
from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS
from aprgraph.graph.errors import DeviceError
from aprgraph.graph.ir import Node
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.model import Model
from aprgraph.graph.weight_pieces import comes_in_pieces, packed_parts, packed_places
from aprgraph.runtime.cuda.driver import Driver, Gpu
from aprgraph.runtime.cuda.transfers import PENDING, Transfers
from aprgraph.runtime.engine import OnTap
from aprgraph.runtime.kernel_values import pieces_in_file, statistics_from_rows, weight_array
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.writing_between import WriteFiles
from aprgraph.runtime.tvm_runtime import TvmRuntime, first_line, load_tvm_runtime
from aprgraph.runtime.tvm_session import Receive, Session

_CREATE = "ffi.Module.create.cuda"
#: Tensors of one kind that go up for a pass: tokens and positions.
_INPUTS = 2


def release_pool() -> None:
    """Give back the memory that TVM keeps for values to come: it would count as taken."""
    if "tvm_ffi" in sys.modules:
        load_tvm_runtime().function("vm.builtin.memory_manager.clear")()


class CudaSession(Session):
    """A session on ``gpu``, with the kernels of a fat binary.

    Each weight goes up once, as the file's own blocks, when a program first needs it. Taps come down as they appear, beside what
    the GPU computes: each is delivered while the next is on its way. ``functions`` is how the kernels are called, as JSON.
    """

    def __init__(
        self,
        library: MachineCode,
        fat_binary: MachineCode,
        functions: str,
        model: Model,
        driver: Driver,
        gpu: Gpu,
        *,
        capacity: int,
    ) -> None:
        self._fat_binary, self._functions, self._driver, self._gpu = fat_binary, functions, driver, gpu
        driver.use(gpu)
        self._transfers = Transfers(driver)
        self._kept: dict[tuple[tuple[int, ...], str], tuple[list[Any], Iterator[int]]] = {}
        self._pieces: Any = None
        super().__init__(library, model, capacity=capacity)

    def close(self) -> None:
        """See ``Session.close``: all that lies on the GPU, for TVM still knows this session by its taps, and the buffers of copies."""
        self._transfers.close()
        for held in (self._weights, self._states, self._kept):
            held.clear()
        self._pieces = None
        release_pool()

    # -- on the device -----------------------------------------------------------------------------------------------------

    def _load_tvm(self) -> TvmRuntime:
        tvm = load_tvm_runtime()
        if not tvm.has_function(_CREATE):
            try:
                ctypes.CDLL(str(tvm.library.parent / "libtvm_runtime_cuda.so"), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise DeviceError(f"TVM's CUDA runtime cannot be loaded: {error}; install apache-tvm again") from None
        return tvm

    def _device(self) -> Any:
        return self._tvm.device("cuda", self._gpu.index)

    def _load_kernels(self, library: MachineCode) -> Any:
        functions = self._tvm.function("runtime.LoadMetaDataFromJSON")(self._functions)
        kernels = self._tvm.function(_CREATE)(self._fat_binary.data, "fatbin", functions, {})
        host = super()._load_kernels(library)
        host.import_module(kernels)
        return host

    def _make_half_table(self) -> None:
        return None  # GPUs convert half-precision numbers as fast as they could look them up

    def _bind(self, node: Node) -> list[Any]:
        dtype, dims = weight_storage(node.type)
        in_pieces = comes_in_pieces(node.type)
        weight = self._empty((math.prod(dims),) if in_pieces else dims, np.dtype(dtype).name)
        pieces = pieces_in_file(self._model, node)
        if pieces is None:
            self._transfers.upload(weight_array(self._model, node), weight.data_ptr())
        else:
            for _, start, part in packed_parts(node.type, (find() for find in pieces.finders)):
                self._transfers.upload(part, weight.data_ptr() + start)
        self._model.file.release()
        return [weight, self._tvm.tensor(packed_places(node.type), self._device())] if in_pieces else [weight]

    def _empty(self, shape: Sequence[int], dtype: str) -> Any:
        try:
            return super()._empty(shape, dtype)
        except Exception as error:
            self.explain(error, 0)
            raise

    def tensor(self, values: npt.NDArray[Any]) -> Any:
        """See ``Session.tensor``."""
        tensor = self._one_of(_INPUTS, values.shape, values.dtype.name)
        self._transfers.upload(values, tensor.data_ptr())
        return tensor

    def _clear(self, tensor: Any) -> None:
        self._transfers.upload(np.zeros(tensor.shape, np.float32), tensor.data_ptr())

    def _piece(self, values: F32) -> Any:
        # One for pieces of all sizes, so that what they need is known beforehand: memory.py.
        if self._pieces is None or self._pieces.shape[0] < values.size:
            self._pieces = None
            self._pieces = self._empty(values.shape, "float32")
        self._transfers.upload(values, self._pieces.data_ptr())
        return self._tvm.view(self._pieces, self.shape(values.shape))

    def _rows(self, value: Any, count: int) -> Any:
        rows = self._one_of(PENDING + 1, (-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), "float64")
        self._summarise_into(rows, value, count)
        return rows

    def _tell(self, on_tap: OnTap, node: Node, value: Any) -> None:
        def receive(array: F32, rows: npt.NDArray[np.float64]) -> None:
            on_tap(node, array, statistics_from_rows(array.size, rows))

        self.fetch([value, self._rows(value, math.prod(value.shape))], receive)

    def _one_of(self, count: int, shape: Sequence[int], dtype: str) -> Any:
        """One of ``count`` tensors of a kind, in turn: the memory of a tensor that is let go is given back by stopping the GPU."""
        key = (tuple(shape), dtype)
        if key not in self._kept:
            self._kept[key] = ([self._empty(shape, dtype) for _ in range(count)], cycle(range(count)))
        tensors, turn = self._kept[key]
        return tensors[next(turn)]

    def fetch(self, tensors: Sequence[Any], receive: Receive) -> None:
        """See ``Session.fetch``: later, while the GPU goes on."""
        self._transfers.download(tensors, receive)

    def wait(self) -> None:
        """See ``Session.wait``."""
        self._transfers.wait()

    def stop(self) -> None:
        """See ``Session.stop``."""
        self._transfers.forget()
        super().stop()

    @property
    def write_files(self) -> WriteFiles | None:
        """See ``Engine.write_files``: the buffers of copies are used again."""
        return None

    def explain(self, error: Exception, positions: int) -> None:
        """See ``Session.explain``. Raises DeviceError for whatever the driver or its runtime library said."""
        super().explain(error, positions)
        said = str(error)
        if "out of memory" in said:
            free, total = self._driver.memory()
            raise DeviceError(
                f"{self._gpu}: out of memory ({free:,} bytes free of {total:,}); tap fewer layers, run the prompt in parts with ",
                PREFILL_CHUNK,
                ", or use ",
                TARGET.given("llvm", "'llvm'"),
            ) from None
        if "UNSUPPORTED_PTX" in said:
            major, minor = self._gpu.compute_capability
            raise DeviceError(
                f"{self._gpu}: its driver is older than the compiler that made this artifact's PTX, and no architecture in it is the "
                "GPU's own; compile the model again with ",
                ARCHITECTURES.given(f"sm_{major}{minor}", f"['sm_{major}{minor}']"),
                ", or update the driver",
            ) from None
        if re.search(r"\bCUDA", said, re.IGNORECASE):
            raise DeviceError(f"{self._gpu} failed: {first_line(error)}") from None

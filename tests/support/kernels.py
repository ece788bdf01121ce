"""Runs one kernel alone: random operands, a poisoned output, and the op's float64 reference beside it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm_ffi import from_dlpack

from aprgraph.codegen.cpu.levels import CPUS, Cpu, machine_flags
from aprgraph.codegen.cpu.library import build_library
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.block_formats import BLOCK_FORMATS, decode_reference, weight_format, weight_storage
from aprgraph.graph.calling_convention import half_table
from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.weight_pieces import Piece, comes_in_pieces, decode_piece, packed, packed_places
from aprgraph.runtime.tvm_runtime import load_tvm_runtime
from tests.support.tiny import random_weight

#: What outputs hold before a kernel runs; no kernel computes it.
POISON = np.float32(1.2345e30)

#: The CPU levels that this machine can run.
RUNNABLE = [cpu for cpu in CPUS.values() if machine_flags().issuperset(cpu.flags)]


def f32(*dims: int | str) -> TensorType:
    return TensorType("f32", dims)


def i32(*dims: int | str) -> TensorType:
    return TensorType("i32", dims)


def request(op: str, operands: Sequence[TensorType], **attrs: Attr) -> KernelRequest:
    return KernelRequest(op, tuple(operands), attrs, OPS[op].infer(operands, attrs))


@cache
def _compiled(text: str, cpu: Cpu, key: _Key) -> Any:
    del text
    load_tvm_runtime()  # which decides how threads wait
    with tempfile.TemporaryDirectory(prefix="aprgraph-tests-") as folder:  # the system's loader keeps what it has loaded
        path = Path(folder) / f"{key.request.symbol}.so"
        build_library({key.request.symbol: key.request}, cpu, path)
        return tvm.runtime.load_module(str(path))[key.request.symbol]


@dataclass(frozen=True, eq=False)
class _Key:
    """Carries a request through the cache, whose key is the request's text."""

    request: KernelRequest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.request.content == other.request.content

    def __hash__(self) -> int:
        return hash(self.request.content)


def set_threads(count: int) -> None:
    tvm.get_global_func("runtime.config_threadpool")(1, count)


@dataclass(frozen=True)
class Weight:
    """Random blocks of a weight: as kernels take them, and decoded."""

    type: TensorType
    stored: npt.NDArray[Any]
    decoded: npt.NDArray[np.float64]

    @property
    def places(self) -> npt.NDArray[np.int64] | None:
        """The table of places that kernels take beside ``stored``, which is packed; None if they take none."""
        return packed_places(self.type) if comes_in_pieces(self.type) else None

    @property
    def packed(self) -> list[npt.NDArray[Any]]:
        """What kernels on a GPU take."""
        return [self.stored] if self.places is None else [self.stored.reshape(-1), self.places]


def weight(fmt: str, *dims: int, seed: int = 0) -> Weight:
    kind = TensorType(fmt.lower(), dims)
    generator = np.random.default_rng([seed, *dims])
    raw = random_weight(fmt, dims, generator)
    dtype, shape = weight_storage(kind)
    # At the worst alignment that a GGUF file may have: 8 bytes.
    room = np.empty(raw.size + 72, dtype=np.uint8)
    start = (8 - room.ctypes.data) % 64
    room[start : start + raw.size] = raw
    stored = room[start : start + raw.size].view(dtype).reshape(shape)
    return Weight(kind, stored, decode_reference(weight_format(kind), stored.reshape(-1).view(np.uint8), dims))


def weight_with_scales(layout: str, *dims: int, seed: int = 0) -> Weight:
    """The same of a format of checkpoints, whose scales lie apart."""
    kind, generator = TensorType(layout, dims), np.random.default_rng([seed, *dims])
    fmt = weight_format(kind)
    assert fmt.scales is not None
    groups = fmt.scales.dims(dims[-2], dims[-1] // fmt.elements)
    pieces = []
    for _ in range(math.prod(dims[:-2])):
        blocks = generator.integers(0, 256, (dims[-2], fmt.row_bytes(dims[-1])), dtype=np.uint8)
        if fmt.scales.group_bytes == 1:
            scales = generator.integers(115, 125, groups, dtype=np.uint8)
        else:
            blocks[(blocks & 0x7C) == 0x7C] = 0x40  # neither NaN nor infinite
            scales = generator.uniform(0.01, 0.02, groups).astype(np.float32).view(np.uint8)
        pieces.append(Piece(blocks, scales))
    dtype, shape = weight_storage(kind)
    decoded = np.concatenate([decode_piece(fmt, piece, 0, dims[-2]) for piece in pieces])
    return Weight(kind, packed(kind, pieces).view(dtype).reshape(shape), decoded.reshape(dims))


def weight_in_columns(layout: str, *dims: int, seed: int = 0) -> Weight:
    """The same of matrices that lie column by column: [experts, rows, columns]."""
    kind, generator = TensorType(layout, dims), np.random.default_rng([seed, *dims])
    field = weight_format(kind).fields[0].numpy_dtype
    values = generator.standard_normal(dims).astype(field)
    pieces = [Piece(np.ascontiguousarray(matrix.T).view(np.uint8)) for matrix in values]
    dtype, shape = weight_storage(kind)
    return Weight(kind, packed(kind, pieces).view(dtype).reshape(shape), values.astype(np.float64))


def columns_of(fmt: str) -> int:
    """Two blocks; for plain formats a width that no vector divides."""
    elements = BLOCK_FORMATS[fmt].elements
    return 2 * elements if elements > 1 else 53


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    """A state, which sessions allocate at multiples of 64 bytes."""
    size = 4 * math.prod(shape)
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(np.float32).reshape(shape)


def prepared(
    what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], shape: Sequence[int], cpu: Cpu
) -> tuple[Callable[[], object], Any]:
    """A call of the kernel of ``what``, and TVM's tensor that it writes."""
    result = tvm.runtime.tensor(np.full(shape, POISON, dtype=np.float32))
    # Activations are TVM's own tensors, aligned to 64 bytes; weights lie as they are.
    arguments: list[Any] = []
    for operand in operands:
        if not isinstance(operand, Weight):
            arguments.append(tvm.runtime.tensor(operand))
        elif operand.places is None:
            arguments.append(from_dlpack(operand.stored))
        else:
            arguments += [from_dlpack(operand.stored.reshape(-1)), tvm.runtime.tensor(operand.places)]
    if what.needs_half_table:
        arguments.insert(0, tvm.runtime.tensor(half_table()))
    return partial(_compiled(what.content, cpu, _Key(what)), *arguments, *what.numbers.values(), result), result


def run(what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], shape: Sequence[int], cpu: Cpu) -> npt.NDArray[np.float32]:
    """Run the kernel of ``what``; every element of the output must have been written."""
    call, result = prepared(what, operands, shape, cpu)
    call()
    out: npt.NDArray[np.float32] = result.numpy()
    assert not (out == POISON).any(), f"{what.text}: elements were not written"
    return out


def reference(what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight]) -> npt.NDArray[Any]:
    """The op's float64 reference on the same operands."""
    values = [operand.decoded if isinstance(operand, Weight) else operand for operand in operands]
    wide = [value.astype(np.int64 if value.dtype.kind == "i" else np.float64) for value in values]
    function = OPS[what.op].reference
    assert function is not None
    return function(wide, what.attrs)

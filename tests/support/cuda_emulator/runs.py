"""Runs the same work several times over, so that what must not matter is seen not to.

The runs differ in the order of threads and blocks, in the byte that fresh memory is filled with, and in which end of every buffer
lies against a guard page. All must write the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .native import Engine

#: What each run in turn finds in outputs that nobody wrote, as bytes: as floats NaN, and a small negative number. Arrays of a kernel's
#: own hold the other of the two: what is copied from them must not pass for what was not written.
POISONS = (0xFF, 0xA5)
#: Device pointers are multiples of this; a buffer whose size is not is guarded that much less closely.
ALIGNMENT = 16


class EmulationError(Exception):
    """A kernel did what CUDA does not allow, or gave what depends on chance. The message names kernel, block, thread and place."""


class WroteAround(EmulationError):
    """Nothing stopped it, but bytes around a buffer, where no guard page is, have changed."""


@dataclass(frozen=True)
class Out:
    """An argument that is written: what it holds before is not defined. ``partial``: not every element need be written."""

    shape: tuple[int, ...] | int
    dtype: npt.DTypeLike = np.float32
    partial: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)


@dataclass(frozen=True)
class InOut:
    """An argument that is read and written."""

    values: npt.NDArray[Any]


Argument = npt.NDArray[Any] | Out | InOut | int | float


@dataclass(frozen=True)
class Outputs:
    """What was written: one array an Out or InOut, in the order of the arguments, and which elements of each nobody wrote."""

    arrays: tuple[npt.NDArray[Any], ...]
    unwritten: tuple[npt.NDArray[np.bool_], ...]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter(self.arrays)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        return self.arrays[index]


@dataclass(frozen=True)
class Run:
    """How one run differs. ``side`` 0: buffers end at a guard page; 1: they begin after one. ``poison``: which of POISONS."""

    order: str
    side: int
    poison: int

    @property
    def array_poison(self) -> int:
        """The byte that a kernel's own arrays hold."""
        return POISONS[1 - self.poison]


@dataclass(frozen=True)
class Buffer:
    """An array argument during a run: guarded memory."""

    address: int
    dims: tuple[int, ...]
    dtype: np.dtype[Any]


#: Does the work of a run on the arguments, arrays as Buffers. Raises EmulationError.
Execute = Callable[[Run, Sequence[Buffer | int | float]], None]


def run_all(names: Sequence[str], args: Sequence[Argument], orders: Sequence[str | int], execute: Execute) -> Outputs:
    """Do the work once for each of ``orders``, or twice for one; two runs tell what was not written. ``names`` are the arguments'.

    Raises EmulationError: the work's own, or that the runs differ, or that elements were not written.
    """
    repeated = [str(order) for order in ([*orders, *orders] if len(orders) == 1 else orders)]
    runs = [_run(Run(order, number % 2, number % 2), args, execute) for number, order in enumerate(repeated)]
    arrays, unwritten = [], []
    written = [(name, argument) for name, argument in zip(names, args, strict=True) if isinstance(argument, (Out, InOut))]
    for number, (name, argument) in enumerate(written):
        values, missing = _compared(name, argument, repeated, [run[number] for run in runs])
        arrays.append(values)
        unwritten.append(missing)
    return Outputs(tuple(arrays), tuple(unwritten))


def _run(run: Run, args: Sequence[Argument], execute: Execute) -> list[npt.NDArray[np.uint8]]:
    """The bytes that one run left in the outputs."""
    with _buffers() as allocate:
        values: list[Buffer | int | float] = []
        outputs = []
        for argument in args:
            if not isinstance(argument, (np.ndarray, Out, InOut)):
                values.append(argument)
                continue
            dims, dtype, given = _description(argument)
            size = int(np.prod(dims, dtype=np.int64)) * dtype.itemsize
            buffer = Buffer(allocate(size, run), dims, dtype)
            view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(buffer.address))
            if given is not None:
                view[:] = np.ascontiguousarray(given).reshape(-1).view(np.uint8)
            if isinstance(argument, np.ndarray):
                Engine.get().protect(buffer.address)
            else:
                outputs.append(view)
            values.append(buffer)
        try:
            execute(run, values)
        except WroteAround:
            if run.side == run.poison:  # with its buffers at the other side it may be stopped in the act
                _run(replace(run, side=1 - run.side), args, execute)
            raise
        return [view.copy() for view in outputs]


def _description(argument: npt.NDArray[Any] | Out | InOut) -> tuple[tuple[int, ...], np.dtype[Any], npt.NDArray[Any] | None]:
    """Dims, dtype, and what it holds at first; None: whatever is there."""
    if isinstance(argument, Out):
        return argument.dims, np.dtype(argument.dtype), None
    values = argument.values if isinstance(argument, InOut) else argument
    return values.shape, values.dtype, values


@contextmanager
def _buffers() -> Iterator[Callable[[int, Run], int]]:
    """Gives a function that allocates guarded buffers, which are freed at the end."""
    allocated = []

    def allocate(size: int, run: Run) -> int:
        allocated.append(Engine.get().allocate(size, ALIGNMENT, run.side, POISONS[run.poison]))
        return allocated[-1]

    try:
        yield allocate
    finally:
        for address in allocated:
            Engine.get().free(address)


def _compared(
    name: str, argument: Out | InOut, orders: Sequence[str], runs: Sequence[npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """An output of the first run, if all runs agree on it but for what is still poison in each; and where it is."""
    dims, dtype, given = _description(argument)
    elements = [run.reshape(-1, dtype.itemsize) for run in runs]
    missing = np.full(len(elements[0]), given is None)
    for number, raw in enumerate(elements):
        missing &= (raw == POISONS[number % 2]).all(axis=1)
    values = elements[0].copy().view(dtype).reshape(dims)
    for order, raw in zip(orders[1:], elements[1:], strict=True):
        differs = (raw != elements[0]).any(axis=1) & ~missing
        if differs.any():
            at, other = _first(differs, dims), raw.copy().view(dtype).reshape(dims)
            raise EmulationError(
                f"{name}: {differs.sum()} of {differs.size} elements depend on the order of threads or on memory that was not written; "
                f"the first is {list(at)}: {values[at]} with threads {orders[0]}, {other[at]} with threads {order}"
            )
    if missing.any() and not (isinstance(argument, Out) and argument.partial):
        raise EmulationError(
            f"{name}: {missing.sum()} of {missing.size} elements were not written, the first {list(_first(missing, dims))}"
        )
    return values, missing.reshape(dims)


def _first(mask: npt.NDArray[np.bool_], dims: tuple[int, ...]) -> tuple[int, ...]:
    """The index of the first that is set."""
    return tuple(int(i) for i in np.unravel_index(int(mask.argmax()), dims))

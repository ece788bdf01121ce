"""The engine's library, as ctypes calls it (engine/in_process.cpp)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy.typing as npt

from .toolkit import toolkit

_MESSAGE = 4096
_POINTER, _TEXT, _SIZE, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int


class Engine:
    """Memory between guard pages, kernel libraries, launches."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(toolkit().engine))
        self._load, self._allocate, self._launch = library.emulator_load, library.emulator_allocate, library.emulator_launch
        self._protect, self._free = library.emulator_protect, library.emulator_free
        self._load.restype = self._allocate.restype = _POINTER
        self._load.argtypes = [_TEXT, _TEXT, _SIZE]
        self._allocate.argtypes = [_SIZE, _SIZE, _INT, _INT]
        self._protect.argtypes = [_POINTER, _INT]
        self._free.argtypes = [_POINTER]
        self._launch.argtypes = [_POINTER, _TEXT, _POINTER, _POINTER, _SIZE, _POINTER, _TEXT, _INT, _TEXT, _SIZE]

    @staticmethod
    @cache
    def get() -> Engine:
        """The one of this process."""
        return Engine()

    def load(self, path: Path) -> int:
        """The handle of a kernel library."""
        message = ctypes.create_string_buffer(_MESSAGE)
        handle = self._load(str(path).encode(), message, _MESSAGE)
        if not handle:
            raise RuntimeError(f"{path}: {message.value.decode(errors='replace')}")
        return int(handle)

    def allocate(self, size: int, alignment: int, side: int, poison: int) -> int:
        """Address of ``size`` bytes, all ``poison``. ``side`` 0: they end at a guard page, but for the alignment; 1: they begin after one."""
        address = self._allocate(size, alignment, side, poison)
        if not address:
            raise MemoryError(f"no {size} bytes for a buffer of the emulated device")
        return int(address)

    def protect(self, address: int) -> None:
        """From now on it may only be read."""
        self._protect(address, 0)

    def free(self, address: int) -> None:
        """Give it back."""
        self._free(address)

    def launch(
        self,
        library: int,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        shared: int,
        values: Sequence[npt.NDArray],
        order: str,
        poison: int,
    ) -> tuple[int, str]:
        """Run a kernel: 0; or 1, or 2 where it only wrote around a buffer, with the message. ``values`` hold an argument each."""
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
        message = ctypes.create_string_buffer(_MESSAGE)
        sizes = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
        code = self._launch(library, name.encode(), *sizes, shared, pointers, order.encode(), poison, message, _MESSAGE)
        return code, message.value.decode(errors="replace")

"""ggml's CPU backend through ctypes: one operation at a time, on arrays.

``libraries`` is the folder of ggml's shared libraries, one of the CPU backend for each level: those of the npm package
@node-llama-cpp/linux-x64 (bins/linux-x64), or any built with GGML_BACKEND_DL and GGML_CPU_ALL_VARIANTS.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.roundings import F32

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_TYPES = {"float32": 0, "float16": 1, "int32": 26}
_MEMORY = 1 << 26


class _Parameters(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_P, [_Parameters]),
    "ggml_free": (None, [_P]),
    "ggml_new_tensor_4d": (_P, [_P, _I, _L, _L, _L, _L]),
    "ggml_get_data": (_P, [_P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_row_size": (ctypes.c_size_t, [_I, _L]),
    "ggml_quantize_chunk": (ctypes.c_size_t, [_I, _P, _P, _L, _L, _L, _P]),
    "ggml_backend_buft_get_alloc_size": (ctypes.c_size_t, [_P, _P]),
    "ggml_backend_buft_alloc_buffer": (_P, [_P, ctypes.c_size_t]),
    "ggml_backend_buffer_get_base": (_P, [_P]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_tensor_alloc": (_I, [_P, _P, _P]),
    "ggml_backend_tensor_set": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_gelu": (_P, [_P, _P]),
    "ggml_rope_ext": (_P, [_P, _P, _P, _P, _I, _I, _I, _F, _F, _F, _F, _F, _F]),
    "ggml_flash_attn_ext": (_P, [_P, _P, _P, _P, _P, _F, _F, _F]),
    "ggml_flash_attn_ext_add_sinks": (None, [_P, _P]),
    "ggml_soft_max_ext": (_P, [_P, _P, _P, _F, _F]),
    "ggml_soft_max_add_sinks": (None, [_P, _P]),
}


class GgmlCpu:
    """The CPU backend at one ``level``, such as haswell. Methods that begin with ``ggml_`` are its functions."""

    def __init__(self, libraries: Path, level: str) -> None:
        base = ctypes.CDLL(str(libraries / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(libraries / f"libggml-cpu-{level}.so"))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(base, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._compute = cpu.ggml_graph_compute_with_ctx
        self._compute.restype, self._compute.argtypes = _I, [_P, _P, _I]
        cpu.ggml_cpu_init()
        repack = cpu._Z35ggml_backend_cpu_repack_buffer_typev
        repack.restype, repack.argtypes = _P, []
        self._repack = repack()
        self.context: Any = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __enter__(self) -> GgmlCpu:  # noqa: PYI034 -- no other class derives from it
        self.context = self.ggml_init(_Parameters(_MEMORY, None, False))
        return self

    def __exit__(self, *_: object) -> None:
        self.ggml_free(self.context)

    def tensor(self, values: Any, *, kind: int | None = None, dims: Sequence[int] = ()) -> int:
        """A tensor of an array, outermost dimension first; of bytes, of the ggml type ``kind`` and ``dims``."""
        values = np.ascontiguousarray(values)
        dims = tuple(dims or values.shape)[::-1]
        address: int = self.ggml_new_tensor_4d(
            self.context, _TYPES[values.dtype.name] if kind is None else kind, *dims, *[1] * (4 - len(dims))
        )
        ctypes.memmove(self.ggml_get_data(address), values.ctypes.data, values.nbytes)
        return address

    def compute(self, tensor: int, shape: Sequence[int], threads: int = 1) -> F32:
        """The value of an f32 tensor."""
        graph = self.ggml_new_graph(self.context)
        self.ggml_build_forward_expand(graph, tensor)
        code = self._compute(self.context, graph, threads)
        assert code == 0, code
        count = int(np.prod(shape))
        found: F32 = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.ggml_get_data(tensor))).reshape(shape).copy()
        return found

    @contextmanager
    def repacked(self, kind: int, blocks: Any, columns: int) -> Iterator[int]:
        """A matrix of ``blocks`` [rows, bytes] in the order that ggml has for this level, where it has one, as llama.cpp lays weights out."""
        context = self.ggml_init(_Parameters(_MEMORY, None, True))
        tensor: int = self.ggml_new_tensor_4d(context, kind, columns, len(blocks), 1, 1)
        buffer = self.ggml_backend_buft_alloc_buffer(self._repack, self.ggml_backend_buft_get_alloc_size(self._repack, tensor))
        base = self.ggml_backend_buffer_get_base(buffer)
        assert self.ggml_backend_tensor_alloc(buffer, tensor, base) == 0
        blocks = np.ascontiguousarray(blocks)
        self.ggml_backend_tensor_set(tensor, blocks.ctypes.data, 0, blocks.nbytes)
        assert ctypes.string_at(base, blocks.nbytes) != blocks.tobytes(), "ggml leaves these as they are"
        yield tensor
        self.ggml_backend_buffer_free(buffer)
        self.ggml_free(context)

    def quantise(self, kind: int, weights: F32) -> Any:
        """The rows ``weights`` in blocks of the ggml type ``kind``: u8, with all columns of equal importance."""
        rows, columns = weights.shape
        blocks = np.empty((rows, self.ggml_row_size(kind, columns)), np.uint8)
        importance = np.ones(columns, np.float32)
        self.ggml_quantize_chunk(kind, weights.ctypes.data, blocks.ctypes.data, 0, rows, columns, importance.ctypes.data)
        return blocks

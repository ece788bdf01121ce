"""How an `.apr` file stores the elements of a tensor: by the code of its dtype, its shape and its bytes.

Codes are ggml's where ggml has the type. 3, 6, 7 and 8 each stand for two types, which sizes tell apart: apr's own, and
ggml's. Formats that kernels have are read where they lie; the others are decoded to float32 when they are bound. From
paiml/aprender, crates/apr-format/src/v2/tensor_index_impl.rs and writer.rs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import BLOCK_FORMATS, decode_by_gguf

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_BLOCK = 32


@dataclass(frozen=True)
class Packing:
    """A layout that no kernel has: ``head`` bytes for the whole tensor, then units of ``nbytes`` that hold
    ``elements``.

    ``decode(units [k, nbytes], head [head])`` gives f32 [k, elements]. Elements follow each other through all rows;
    those of the last unit behind the tensor's end mean nothing.
    """

    name: str
    elements: int
    nbytes: int
    decode: Callable[[Bytes, Bytes], F32]
    head: int = 0

    def size(self, elements: int) -> int:
        """Bytes of a tensor of so many elements."""
        return self.head + -(-elements // self.elements) * self.nbytes


def _float64(units: Bytes, _: Bytes) -> F32:
    return np.ascontiguousarray(units).view("<f8").astype(np.float32)


def _apr_q4(units: Bytes, _: Bytes) -> F32:
    """A float16 scale, then 16 bytes of two elements each, the first in the low bits: (q - 8) · scale."""
    scales = np.ascontiguousarray(units[:, :2]).view("<f2").astype(np.float32)
    pairs = np.stack((units[:, 2:] & 15, units[:, 2:] >> 4), axis=-1).reshape(len(units), _BLOCK)
    values: F32 = (pairs.astype(np.float32) - 8) * scales
    return values


def _apr_q8(units: Bytes, head: Bytes) -> F32:
    """A float32 scale for the whole tensor, then one signed byte an element."""
    values: F32 = units.view(np.int8).astype(np.float32) * np.ascontiguousarray(head).view("<f4")
    return values


def _blocks_of(name: str) -> Callable[[Bytes, Bytes], F32]:
    fmt = BLOCK_FORMATS[name]
    return lambda units, _: decode_by_gguf(fmt, units, (len(units), units.shape[1] // fmt.block_bytes * fmt.elements))


F64 = Packing("F64", 1, 8, _float64)
APR_Q4 = Packing("AprQ4", _BLOCK, 18, _apr_q4)
APR_Q8 = Packing("AprQ8", 1, 1, _apr_q8, head=4)

#: What a code may stand for: block formats by name, and packings.
_CODES: dict[int, tuple[str | Packing, ...]] = {
    0: ("F32",), 1: ("F16",), 30: ("BF16",), 12: ("Q4_K",), 14: ("Q6_K",), 128: (APR_Q4,), 129: (APR_Q8,),
    3: (F64, "Q4_1"), 6: ("Q5_0",), 7: ("Q5_1",), 8: ("Q8_0", APR_Q4), 9: (APR_Q8,),
}  # fmt: skip
#: Codes of whole numbers, which no weight has.
_INTEGERS = {4: "I32", 5: "I64", 6: "I8", 7: "U8"}


def name_of_code(code: int) -> str:
    """What a code stands for, for messages."""
    kinds = [kind if isinstance(kind, str) else kind.name for kind in _CODES.get(code, ())]
    kinds += [_INTEGERS[code]] if code in _INTEGERS else []
    return f"{' or '.join(kinds)} (dtype {code})" if kinds else f"the unknown dtype {code}"


def find_storage(code: int, dims: tuple[int, ...], nbytes: int) -> tuple[BlockFormat, Packing | None] | None:
    """The format of a tensor as kernels get it, and how it is decoded to that where it is not stored so.

    None if nothing of that code has so many bytes. ``dims`` are outermost first.
    """
    elements = math.prod(dims)
    for kind in _CODES.get(code, ()):
        if isinstance(kind, Packing):
            if kind.size(elements) == nbytes:
                return BLOCK_FORMATS["F32"], kind
            continue
        fmt = BLOCK_FORMATS[kind]
        rows, blocks = elements // dims[-1], -(-dims[-1] // fmt.elements)
        if dims[-1] % fmt.elements == 0 and elements // fmt.elements * fmt.block_bytes == nbytes:
            return fmt, None
        if rows * blocks * fmt.block_bytes == nbytes:  # apr pads each row to whole blocks
            return BLOCK_FORMATS["F32"], _padded_rows(fmt, dims[-1], blocks * fmt.block_bytes)
        if -(-elements // fmt.elements) * fmt.block_bytes == nbytes:  # or lets blocks go on from row to row
            return BLOCK_FORMATS["F32"], Packing(f"{kind} across rows", fmt.elements, fmt.block_bytes, _blocks_of(kind))
    return None


def _padded_rows(fmt: BlockFormat, columns: int, stride: int) -> Packing:
    decode = _blocks_of(fmt.name)
    return Packing(f"{fmt.name} in padded rows", columns, stride, lambda units, head: decode(units, head)[:, :columns])

"""Weights of bitsandbytes, in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314) and in 8 (arXiv:2208.07339).

In 4 bits: `weight` U8 [R · C / 2, 1], two elements in a byte, the first in the high half, each an index into
`weight.quant_map` F32 [16]; `weight.absmax`, one factor for each block of the flat weight, or, quantised again, U8 with
`weight.nested_quant_map` F32 [256], `weight.nested_absmax` F32 and an offset; what else there is to know is JSON in the
bytes of `weight.quant_state.bitsandbytes__nf4` (or fp4). In 8 bits: `weight` I8 [R, C] and `SCB` F32 [R], the largest
value of each row; the weight is q · SCB / 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, Reals, require_matrix
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements

_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_MOST_STATE = 1 << 16
_LEVELS, _NESTED_LEVELS = 16, 256
_BYTES = np.arange(256)
#: 1 / 127 as bitsandbytes has it.
_PER_STEP = np.float32(7.874015718698502e-3)
_AGAIN = "the file is damaged: download it again"


@dataclass(frozen=True)
class FourBits:
    """Layers of nf4 or fp4."""

    kind: ClassVar[str] = "bitsandbytes"
    known_by: ClassVar[str] = "weight"
    dtype: ClassVar[str | None] = "U8"
    parts: ClassVar[Mapping[str, bool]] = {
        "weight.absmax": True, "weight.quant_map": True, **dict.fromkeys(_STATES, False),
        "weight.nested_absmax": False, "weight.nested_quant_map": False,
    }  # fmt: skip

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        stored, absmax = parts["weight"], parts["weight.absmax"]
        state = next((parts[name] for name in _STATES if name in parts), None)
        if state is None:
            raise ModelFileError(f"{stored.file.path}: tensor {shown(stored.name)} has no quant_state beside it; {_AGAIN}")
        said = _state(state)
        rows, columns = said.dims
        require_matrix(stored, ("U8",), (-(-rows * columns // 2), 1))
        require_matrix(parts["weight.quant_map"], ("F32",), (_LEVELS,))
        blocks = -(-rows * columns // said.block)
        nested = parts.get("weight.nested_absmax")
        require_matrix(absmax, ("F32",) if nested is None else ("U8",), (blocks,))
        if nested is not None:
            require_matrix(nested, ("F32",), (-(-blocks // said.nested_block),))
            levels = parts.get("weight.nested_quant_map")
            if levels is None:
                raise ModelFileError(f"{nested.file.path}: tensor {shown(nested.name)} has no nested_quant_map beside it; {_AGAIN}")
            require_matrix(levels, ("F32",), (_NESTED_LEVELS,))

        def looked_up(levels: npt.NDArray[np.float32], start: int, stop: int) -> Reals:
            first, last = start * columns, stop * columns
            pairs = np.stack((levels[_BYTES >> 4], levels[_BYTES & 15]), axis=1)  # of each byte
            values = pairs[stored.view()[first // 2 : -(-last // 2)]].reshape(-1)[first % 2 :][: last - first]
            values *= _factors(parts, said, first, last)
            own: Reals = values.reshape(-1, columns)
            return own

        def decode(start: int, stop: int) -> Reals:
            return looked_up(_reals(parts["weight.quant_map"]), start, stop)

        def radius(start: int, stop: int) -> Reals:
            return np.abs(looked_up(_half_gaps(_reals(parts["weight.quant_map"])), start, stop))

        return Decoding((rows, columns), decode, radius)


@dataclass(frozen=True)
class EightBits:
    """Layers of LLM.int8()."""

    kind: ClassVar[str] = "bitsandbytes"
    known_by: ClassVar[str] = "weight"
    dtype: ClassVar[str | None] = "I8"
    parts: ClassVar[Mapping[str, bool]] = {"SCB": True, "weight_format": False}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        stored, layout = parts["weight"], parts.get("weight_format")
        require_matrix(stored, ("I8",))
        require_matrix(parts["SCB"], ("F32",), (stored.dims[0],))
        if layout is not None and elements(layout).any():  # 0 is row after row
            raise ModelFileError(f"{layout.file.path}: tensor {shown(layout.name)} is not 0, rows one after the other; {_AGAIN}")

        def decode(start: int, stop: int) -> Reals:
            integers = stored.view().view(np.int8).reshape(stored.dims)[start:stop].astype(np.float32)
            own: Reals = integers * _reals(parts["SCB"])[start:stop, None] * _PER_STEP
            return own

        def radius(start: int, stop: int) -> Reals:
            half = np.abs(_reals(parts["SCB"])[start:stop, None]) * (_PER_STEP / 2)
            return np.broadcast_to(half, (stop - start, stored.dims[1]))

        return Decoding((stored.dims[0], stored.dims[1]), decode, radius)


@dataclass(frozen=True)
class _State:
    dims: tuple[int, int]
    block: int
    nested_block: int
    offset: float


def _factors(parts: Mapping[str, StoredTensor], said: _State, start: int, stop: int) -> npt.NDArray[np.float32]:
    """What each of the elements from ``start`` to ``stop`` of the flat weight is multiplied by."""
    first, last = start // said.block, -(-stop // said.block)
    own = elements(parts["weight.absmax"])[first:last]
    nested = parts.get("weight.nested_absmax")
    if nested is None:
        factors = own.astype(np.float32)
    else:
        outer = _reals(nested)[np.arange(first, last) // said.nested_block]
        factors = _reals(parts["weight.nested_quant_map"])[own.astype(np.intp)] * outer + np.float32(said.offset)
    skipped = start - first * said.block
    return np.repeat(factors, said.block)[skipped : skipped + stop - start]


def _half_gaps(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """By index of a level half of the gap to the next one, of the two the larger."""
    order = np.argsort(levels)
    gaps = np.diff(levels[order])
    halves = np.empty_like(levels)
    halves[order] = np.maximum(np.append(gaps, 0), np.insert(gaps, 0, 0)) / 2
    return halves


def _state(tensor: StoredTensor) -> _State:
    """What the JSON in a tensor says. Raises ModelFileError."""
    where = f"{tensor.file.path}: tensor {shown(tensor.name)}"
    if tensor.dtype != "U8" or tensor.nbytes > _MOST_STATE:
        raise ModelFileError(f"{where} is {tensor.nbytes} bytes of {tensor.dtype}, expected a few of U8; {_AGAIN}")
    try:
        said: Any = parse_json(tensor.view().tobytes().decode("utf-8"))
        rows, columns = said["shape"]
        numbers = (rows, columns, said["blocksize"], said.get("nested_blocksize", 1))
        offset = float(said.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{where} holds no description of a matrix ({shown(str(error))}); {_AGAIN}") from None
    if not all(type(number) is int and 0 < number < 1 << 31 for number in numbers):
        raise ModelFileError(f"{where} says the shape and blocks {shown(numbers)}, expected numbers above 0; {_AGAIN}")
    return _State((rows, columns), numbers[2], numbers[3], offset)


def _reals(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    return elements(tensor).astype(np.float32)

"""Weights of bitsandbytes, in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314) and in 8 (arXiv:2208.07339).

In 4 bits: `weight` U8 [R · C / 2, 1], two elements in a byte, the first in the high half, each an index into
`weight.quant_map` F32 [16]; `weight.absmax`, one factor for each block of the flat weight, or, quantised again, U8 with
`weight.nested_quant_map` F32 [256], `weight.nested_absmax` F32 and an offset; what else there is to know is JSON in the
bytes of `weight.quant_state.bitsandbytes__nf4` (or fp4). In 8 bits: `weight` I8 [R, C] and `SCB` F32 [R], the largest
value of each row; the weight is q · SCB / 127.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, Reals, require_matrix
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.sources.source import Misreading

_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_MOST_STATE = 1 << 16
_LEVELS, _NESTED_LEVELS = 16, 256
_BYTES = np.arange(256)
#: 1 / 127 as bitsandbytes has it.
_PER_STEP = np.float32(7.874015718698502e-3)
#: The levels of the two tables, in the order of their codes.
_NF4: Reals = np.array(
    [-1, -0.6961928, -0.5250731, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302, 0.2461123, 0.33791524,
     0.44070983, 0.562617, 0.72295684, 1], np.float32,
)  # fmt: skip
_FP4: Reals = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / np.float32(12)
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

        layer = _FourBitLayer(parts, said, _reals(parts["weight.quant_map"]))
        return Decoding((rows, columns), layer.decode, layer.radius, layer.misreadings)


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


@dataclass(frozen=True)
class _FourBitLayer:
    """``levels`` are those of the codes; ``low_first``: the first element of a byte is in its low half."""

    parts: Mapping[str, StoredTensor]
    said: _State
    levels: Reals
    low_first: bool = False

    def decode(self, start: int, stop: int) -> Reals:
        """The weight's rows from ``start`` to ``stop``."""
        return self._looked_up(self.levels, start, stop)

    def radius(self, start: int, stop: int) -> Reals:
        """How far the elements of these rows may have been moved."""
        return np.abs(self._looked_up(_half_gaps(self.levels), start, stop))

    def misreadings(self) -> Sequence[Misreading]:
        """What it is to readers who make a mistake."""
        made = [("with the low half of each byte first", replace(self, low_first=True))]
        if "weight.nested_absmax" in self.parts:
            made.append(("without the offset of its nested factors", replace(self, said=replace(self.said, offset=0.0))))
        for own, other, name in ((_NF4, _FP4, "FP4"), (_FP4, _NF4, "NF4")):
            if np.allclose(self.levels, own, atol=1e-3):
                made.append((f"with the levels of {name}", replace(self, levels=other)))
        return [Misreading(words, layer.decode, layer.radius) for words, layer in made]

    def _looked_up(self, levels: Reals, start: int, stop: int) -> Reals:
        columns = self.said.dims[1]
        first, last = start * columns, stop * columns
        halves = (levels[_BYTES >> 4], levels[_BYTES & 15])
        pairs = np.stack(halves[::-1] if self.low_first else halves, axis=1)  # of each byte
        values = pairs[self.parts["weight"].view()[first // 2 : -(-last // 2)]].reshape(-1)[first % 2 :][: last - first]
        values *= self._factors(first, last)
        own: Reals = values.reshape(-1, columns)
        return own

    def _factors(self, start: int, stop: int) -> Reals:
        """What each of the elements from ``start`` to ``stop`` of the flat weight is multiplied by."""
        parts, said = self.parts, self.said
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

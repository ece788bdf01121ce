"""Random weights in every block format, as the bytes that a GGUF file would hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import quantize

#: The block formats that kernels decode.
FORMATS = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q6_K", "Q4_K", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4",
)  # fmt: skip
#: Those that only the gguf package decodes.
FOREIGN_FORMATS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0")
_BY_256 = {name for name in (*FORMATS, *FOREIGN_FORMATS) if name.endswith("_K") or name[:2] in ("IQ", "TQ")} - {"IQ4_NL"}


@dataclass(frozen=True)
class _Blocks:
    """Blocks whose bytes may be anything but for an fp16 scale at the byte ``scale``: None if it lies elsewhere.

    ``deviation`` is that of the values of random bytes if the scale is 1. ``minimum``: where the fp16 scale of the minima
    lies, and how many times the other it has to be to centre the values on zero.
    """

    elements: int
    nbytes: int
    scale: int | None
    deviation: float
    minimum: tuple[int, float] | None = None


#: Blocks of the formats that the gguf package cannot quantise to; MXFP4 it can since 0.18 only.
_RANDOM_BLOCKS = {
    # 6-bit scales and minima average 31.5 and 4-bit values 7.5, so equal products centre the values on zero.
    "Q4_K": _Blocks(256, 144, 0, 255, (2, 7.5)),
    "Q5_K": _Blocks(256, 176, 0, 526, (2, 15.5)),
    "Q2_K": _Blocks(256, 84, 80, 13.9, (82, 1.5)),
    "Q3_K": _Blocks(256, 110, 108, 43.4),
    # With scales of at most 16, which keep d far from fp16's subnormals.
    "Q6_K": _Blocks(256, 210, 208, 180),
    "IQ4_NL": _Blocks(32, 18, 0, 67.6),
    "IQ4_XS": _Blocks(256, 136, 0, 1246),
    # 2^(e - 127) times the values of E2M1, whose mean square is 137 / 16.
    "MXFP4": _Blocks(32, 17, None, math.sqrt(137) / 4),
    "IQ2_XXS": _Blocks(256, 66, 0, 53.3),
    "IQ2_XS": _Blocks(256, 74, 0, 56),
    "IQ2_S": _Blocks(256, 82, 0, 56.5),
    "IQ3_XXS": _Blocks(256, 98, 0, 142.3),
    "IQ3_S": _Blocks(256, 110, 0, 140.6),
    "IQ1_S": _Blocks(256, 50, 0, 7.19),
    "IQ1_M": _Blocks(256, 56, None, 7.19),
}


def block_elements(fmt: str) -> int:
    """How many elements a row must be a multiple of."""
    return 1 if fmt in ("F32", "F16", "BF16") else 256 if fmt in _BY_256 else 32


def random_values(fmt: str, dims: tuple[int, ...], deviation: float, generator: np.random.Generator) -> npt.NDArray[np.generic]:
    """A random weight of ``dims`` as a GGUF writer takes it: numbers, or rows of bytes [..., bytes]."""
    if fmt == "NVFP4":
        return _random_nvfp4(dims, deviation, generator)
    if fmt in _RANDOM_BLOCKS:
        return random_blocks(fmt, math.prod(dims), deviation, generator).reshape(*dims[:-1], -1)
    return encode((generator.standard_normal(dims) * deviation).astype(np.float32), fmt)


def _random_nvfp4(dims: tuple[int, ...], deviation: float, generator: np.random.Generator) -> npt.NDArray[np.generic]:
    """Of 36 bytes, four are scales in unsigned E4M3 (0x7f is a NaN); the others may be anything, with a deviation of about 3."""
    blocks = generator.integers(0, 256, (*dims[:-1], dims[-1] // 64, 36), np.uint8)
    exponent = round(math.log2(deviation / 3)) + 7
    blocks[..., :4] = exponent << 3 | blocks[..., :4] & 7
    return blocks.reshape(*dims[:-1], -1)


def encode(values: npt.NDArray[np.float32], fmt: str) -> npt.NDArray[np.generic]:
    """``values`` in a format that the gguf package can quantise to, as a GGUF writer takes it."""
    if fmt in ("F32", "F16"):
        return values.astype(np.dtype(fmt.lower().replace("f", "float")))
    return quantize(values, GGMLQuantizationType[fmt])


def random_blocks(fmt: str, elements: int, deviation: float, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Valid blocks, u8 [bytes], whose values have about the standard deviation ``deviation`` and mean 0."""
    blocks = _RANDOM_BLOCKS[fmt]
    assert elements % blocks.elements == 0, f"{elements} elements are not a whole number of {fmt} blocks"
    count = elements // blocks.elements
    raw = generator.integers(0, 256, (count, blocks.nbytes), dtype=np.uint8)
    spread = generator.uniform(0.8, 1.2, (count, 1))
    if fmt == "MXFP4":
        exponent = np.log2(deviation / blocks.deviation * spread) + generator.uniform(-0.5, 0.5, (count, 1))
        raw[:, :1] = (127 + np.round(exponent)).astype(np.uint8)
        return raw.reshape(-1)
    if fmt == "Q6_K":
        raw[:, 192:208] = generator.integers(-16, 17, (count, 16)).astype(np.int8).view(np.uint8)
    scale = (deviation / blocks.deviation * spread).astype("<f2")
    if fmt == "IQ4_NL":
        # The table's mean is not zero.
        scale *= generator.choice(np.array([-1, 1], np.float16), (count, 1))
    if blocks.scale is None:
        _spread_over_nibbles(raw[:, 48:56], scale)
    else:
        raw[:, blocks.scale : blocks.scale + 2] = scale.view(np.uint8)
    if blocks.minimum is not None:
        at, ratio = blocks.minimum
        raw[:, at : at + 2] = (scale * np.float16(ratio)).astype("<f2").view(np.uint8)
    return raw.reshape(-1)


def _spread_over_nibbles(scales: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> None:
    """IQ1_M keeps its fp16 scale in the highest four bits of four words, the lowest first."""
    for index in range(4):
        nibble = (scale.view("<u2")[:, 0] >> (4 * index)) & 0xF
        scales[:, 2 * index + 1] = (scales[:, 2 * index + 1] & 0x0F) | (nibble << 4).astype(np.uint8)


def random_weight(fmt: str, dims: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random weight of ``dims`` in the format ``fmt`` as the bytes that a file would hold, u8 [bytes]."""
    return np.ascontiguousarray(random_values(fmt, dims, 1.0, generator)).reshape(-1).view(np.uint8)

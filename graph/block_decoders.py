"""How the elements of a block come out of its fields: one function per block format.

``decode(block, first, lane)`` gives the elements ``first + lane`` of a block, for lane in 0 .. RUN - 1, in terms of a
BlockReader, whose values are NumPy arrays in the reference decoder (graph/block_formats.py) and TVM expressions in
``codegen/kernels``: kernel, reference and documentation all come from these few lines. ``first`` is a Python number
and a multiple of RUN; ``lane`` is not, so a decision may depend on ``first`` alone. The layouts are ggml's (ggml-common.h
and ggml-quants.c of llama.cpp); MXFP4 is that of the OCP Microscaling Formats specification 1.0. Those of checkpoints are
graph/checkpoint_formats.py's.
"""

from __future__ import annotations

from typing import Any, Protocol

#: How many consecutive elements one call of a decoder gives. Within a run only byte offsets and bit numbers move.
RUN = 16


class BlockReader(Protocol):
    """Access to the fields of one block. Integer values are 32 bits wide; real values are the target's float."""

    def integer(self, field: str, index: Any = 0) -> Any:
        """Element ``index`` of an integer field."""

    def bit(self, field: str, first: int, lane: Any) -> Any:
        """Bit ``first + lane`` (0 or 1) of a field of bytes taken as one little-endian number."""

    def nibble(self, field: str, first: int, lane: Any) -> Any:
        """The 4 bits ``first + lane`` (0 to 15) of a field of bytes taken as one little-endian number."""

    def real(self, field: str, index: Any = 0) -> Any:
        """Element ``index`` of a floating-point field."""

    def to_real(self, value: Any) -> Any:
        """An integer value as a real one."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a · b + c, rounded once where the target rounds."""

    def lookup(self, table: tuple[int, ...], index: Any) -> Any:
        """Element ``index`` of a table of 16 integers from -128 to 127."""

    def power_of_two(self, exponent: Any) -> Any:
        """2^exponent as a real value, for an integer from -149 to 127."""


def decode_plain(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("x", first + lane)


# -- 32 elements, one scale ------------------------------------------------------------------------------------------------


def _nibble(block: BlockReader, first: int, lane: Any) -> Any:
    """4-bit values of 32 elements: bytes hold element i in the low half, i + 16 in the high half."""
    return (block.integer("qs", lane) >> (first // 16 * 4)) & 15


def _five_bits(block: BlockReader, first: int, lane: Any) -> Any:
    """5-bit values: the nibble, and the fifth bit from a field of one bit per element."""
    return _nibble(block, first, lane) | (block.bit("qh", first, lane) << 4)


def decode_q8_0(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(block.integer("qs", first + lane))


def decode_q4_0(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(_nibble(block, first, lane) - 8)


def decode_q4_1(block: BlockReader, first: int, lane: Any) -> Any:
    return block.fma(block.real("d"), block.to_real(_nibble(block, first, lane)), block.real("m"))


def minimum_of_block(block: BlockReader) -> Any:
    """The smallest element that a block of Q4_1 or Q5_1 can have: the one for q = 0, if d is positive."""
    return block.real("m")


def minimum_of_q4_0(block: BlockReader) -> Any:
    """What the difference of 8 comes to."""
    return block.real("d") * -8.0


def minimum_of_q5_0(block: BlockReader) -> Any:
    """What the difference of 16 comes to."""
    return block.real("d") * -16.0


def decode_q5_0(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(_five_bits(block, first, lane) - 16)


def decode_q5_1(block: BlockReader, first: int, lane: Any) -> Any:
    return block.fma(block.real("d"), block.to_real(_five_bits(block, first, lane)), block.real("m"))


#: The 16 values of the IQ4 formats, denser around zero, as weights are.
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: Twice the 16 values of E2M1: sign, two bits of exponent, one of mantissa.
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def decode_iq4_nl(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(block.lookup(_IQ4_VALUES, _nibble(block, first, lane)))


def decode_mxfp4(block: BlockReader, first: int, lane: Any) -> Any:
    # The scale is an E8M0 power of two, 2^(e - 127); one more halving makes up for the doubled table.
    scale = block.power_of_two(block.integer("e") - 128)
    return scale * block.to_real(block.lookup(_E2M1_DOUBLED, _nibble(block, first, lane)))


# -- scales that lie elsewhere (graph/checkpoint_formats.py) ----------------------------------------------------------------


def decode_mxfp4_pairs(block: BlockReader, first: int, lane: Any) -> Any:
    scale = block.power_of_two(block.integer("e") - 128)
    return scale * block.to_real(block.lookup(_E2M1_DOUBLED, block.nibble("qs", first, lane)))


def decode_float8(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.real("x", first + lane)


# -- 256 elements, a scale for each 16 or 32 ---------------------------------------------------------------------------------


def _two_bits(block: BlockReader, first: int, lane: Any) -> Any:
    """2-bit values of 256 elements: two halves of 128; in each, four quarters of 32 share 32 bytes."""
    half, quarter, inside = first // 128, first % 128 // 32, first % 32
    return (block.integer("qs", half * 32 + inside + lane) >> (quarter * 2)) & 3


def _k_nibble(block: BlockReader, first: int, lane: Any) -> Any:
    """4-bit values of 256 elements: two sub-blocks of 32 share 32 bytes."""
    sub = first // 32
    return (block.integer("qs", sub // 2 * 32 + first % 32 + lane) >> (sub % 2 * 4)) & 15


def _k_scale_and_minimum(block: BlockReader, sub: int) -> tuple[Any, Any]:
    """The 6-bit scale and minimum of sub-block ``sub``; eight of each are packed into 12 bytes."""
    if sub < 4:
        return block.integer("scales", sub) & 63, block.integer("scales", sub + 4) & 63
    scale = (block.integer("scales", sub + 4) & 15) | ((block.integer("scales", sub - 4) >> 6) << 4)
    minimum = (block.integer("scales", sub + 4) >> 4) | ((block.integer("scales", sub) >> 6) << 4)
    return scale, minimum


def _scaled_above_minimum(block: BlockReader, scale: Any, minimum: Any, q: Any) -> Any:
    """d · scale · q - dmin · min."""
    offset = block.real("dmin") * block.to_real(minimum)
    return block.fma(block.real("d") * block.to_real(scale), block.to_real(q), -offset)


def decode_q2_k(block: BlockReader, first: int, lane: Any) -> Any:
    packed = block.integer("scales", first // 16)
    return _scaled_above_minimum(block, packed & 15, packed >> 4, _two_bits(block, first, lane))


def decode_q3_k(block: BlockReader, first: int, lane: Any) -> Any:
    # The third bit of all elements of one sub-block of 32 is one bit of each of 32 bytes; where it is 0, 4 is taken off.
    group, sub = first // 16, first // 32
    high = (block.integer("hmask", first % 32 + lane) >> sub) & 1
    low4 = (block.integer("scales", group % 8) >> (group // 8 * 4)) & 15
    high2 = (block.integer("scales", 8 + group % 4) >> (group // 4 * 2)) & 3
    scale = block.real("d") * block.to_real((low4 | (high2 << 4)) - 32)
    return scale * block.to_real((_two_bits(block, first, lane) | (high << 2)) - 4)


def decode_q4_k(block: BlockReader, first: int, lane: Any) -> Any:
    scale, minimum = _k_scale_and_minimum(block, first // 32)
    return _scaled_above_minimum(block, scale, minimum, _k_nibble(block, first, lane))


def decode_q5_k(block: BlockReader, first: int, lane: Any) -> Any:
    scale, minimum = _k_scale_and_minimum(block, first // 32)
    high = (block.integer("qh", first % 32 + lane) >> (first // 32)) & 1
    return _scaled_above_minimum(block, scale, minimum, _k_nibble(block, first, lane) | (high << 4))


def decode_q6_k(block: BlockReader, first: int, lane: Any) -> Any:
    # Two halves of 128 values; in each, four quarters of 32 share 64 bytes of low nibbles and 32 of high bit pairs.
    half, quarter, inside = first // 128, first % 128 // 32, first % 32
    low = (block.integer("ql", half * 64 + quarter % 2 * 32 + inside + lane) >> (quarter // 2 * 4)) & 15
    high = (block.integer("qh", half * 32 + inside + lane) >> (quarter * 2)) & 3
    scale = block.real("d") * block.to_real(block.integer("scales", first // 16))
    return scale * block.to_real((low | (high << 4)) - 32)


def decode_iq4_xs(block: BlockReader, first: int, lane: Any) -> Any:
    sub = first // 32
    q = (block.integer("qs", sub * 16 + lane) >> (first % 32 // 16 * 4)) & 15
    low4 = (block.integer("scales_l", sub // 2) >> (sub % 2 * 4)) & 15
    high2 = (block.integer("scales_h") >> (sub * 2)) & 3
    scale = block.real("d") * block.to_real((low4 | (high2 << 4)) - 32)
    return scale * block.to_real(block.lookup(_IQ4_VALUES, q))

"""Formats of checkpoints of Hugging Face transformers: the scales of a weight are a tensor of their own, or its matrices lie column
by column.

A graph names one as the ``layout`` of a weight: what the weight is to a model, and in GGUF, is its ``dtype``.
"""

from __future__ import annotations

import re
from functools import cache

from aprgraph.graph import block_decoders as decoders
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat, Field, Scales

_COLUMNS = re.compile(r"(F32|F16|BF16)_COLUMNS")
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FP8 = re.compile(r"F8_(E4M3|E5M2)_(TENSOR|ROW|([1-9]\d{0,5})X([1-9]\d{0,5}))")
#: ml_dtypes' names of both kinds of FP8: E4M3 has no infinities in checkpoints.
_DTYPES = {"E4M3": "float8_e4m3fn", "E5M2": "float8_e5m2"}

#: gpt-oss: 16 bytes a block of 32 elements, in which neighbours share a byte, and one E8M0 scale for each block.
MXFP4_PAIRS = BlockFormat(
    "MXFP4_PAIRS",
    -1,
    32,
    (Field("qs", "uint8", 16),),
    decoders.decode_mxfp4_pairs,
    "2^(e - 127) · q, q of E2M1",
    Scales((Field("e", "uint8"),)),
)


@cache
def checkpoint_format(name: str) -> BlockFormat | None:
    """The format ``name``, None if there is none: MXFP4_PAIRS, F32_COLUMNS, F16_COLUMNS or BF16_COLUMNS of matrices that lie
    column by column, or FP8 as F8_E4M3_TENSOR, F8_E5M2_ROW, F8_E4M3_128X128 after what shares a scale: all of a matrix, a row, or
    a block of so many rows and columns.
    """
    if name == MXFP4_PAIRS.name:
        return MXFP4_PAIRS
    if (plain := _COLUMNS.fullmatch(name)) is not None:
        field = Field("x", _FLOATS[plain[1]])
        return BlockFormat(name, -1, 1, (field,), decoders.decode_plain, "x, column by column", in_columns=True)
    found = _FP8.fullmatch(name)
    if found is None or (found[4] and int(found[4]) % RUN):
        return None
    rows, blocks = {"TENSOR": (0, 0), "ROW": (1, 0)}.get(found[2]) or (int(found[3]), int(found[4]) // RUN)
    scales = Scales((Field("d", "float32"),), rows, blocks)
    return BlockFormat(name, -1, RUN, (Field("x", _DTYPES[found[1]], RUN),), decoders.decode_float8, "d · x, x of 8 bits", scales)

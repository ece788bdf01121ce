"""What ggml's CPU backend was asked to compute for ggml_arithmetic.npz: the inputs, the same whenever they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.ops.flash_attention import CELLS
from aprgraph.graph.ops.rope import EVERY_PAIR

GOLDEN = Path(__file__).parent / "ggml_arithmetic.npz"
#: The levels of the backend, and the arithmetic that each is. That of AVX-512 differs from that of AVX2 in attention alone.
LEVELS = {"haswell": "ggml-avx2", "skylakex": "ggml-avx512", "x64": "ggml-scalar"}
ONLY_ATTENTION = ("skylakex",)

# -- matrix products ------------------------------------------------------------------------------------------------------

#: Formats of weights. Q1_0 and Q2_0 are left out: neither this project nor the gguf package decodes them.
FORMATS = (
    "F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "Q4_1", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "TQ1_0", "TQ2_0",
)  # fmt: skip
COUNTS = (1, 2, 7, 20, 64)
ROWS, COLUMNS = 6, 768
#: Longer passes, with other numbers; of these the file holds some rows. They are the same bits on as many threads.
LONG_COUNTS, THREADS = (65, 129, 300), (1, 2, 3)
#: Formats that ggml lays out in an order of its own with AVX2, if there are eight rows or a multiple, and the counts that are tried.
REPACKED, REPACKED_ROWS, REPACKED_COUNTS = ("Q4_0", "IQ4_NL", "MXFP4", "Q4_K"), 8, (1, 2, 65, 300)


def kept_rows(count: int) -> list[int]:
    """The rows of the product of a longer pass that the file holds."""
    return sorted({row for row in (0, 62, 63, 64, 128, 255, 256, count - 1) if row < count})


def activations(count: int) -> Any:
    """f32 [count, COLUMNS]: normal numbers and outliers, and in every second block of 32 numbers that lie between two whole
    ones when they are divided by the block's scale, so that it matters which way a half is rounded.
    """
    most, seed = (max(COUNTS), 11) if count <= max(COUNTS) else (max(LONG_COUNTS), 21)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((most, COLUMNS))
    x[rng.random(x.shape) < 0.005] *= 40
    halves = rng.integers(-253, 254, (most, COLUMNS // 32, 32)) / 2
    halves[..., 0] = 127
    x.reshape(most, -1, 32)[:, ::2] = halves[:, ::2] / 128
    return x.astype(np.float32)[:count]


def weights(rows: int = ROWS) -> Any:
    """f32 [rows, COLUMNS], which ggml quantises."""
    return np.random.default_rng(12).normal(0, 0.05, (rows, COLUMNS)).astype(np.float32)


# -- RoPE -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RopeCase:
    """``yarn`` is the fast and the slow number of turns; the original context is 2048 positions."""

    base: float
    size: int
    pairing: str = "halves"
    scale: float = 1.0
    yarn: tuple[float, float] | None = None
    with_factors: bool = False

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of `rope_angles`."""
        ramp, magnitude = EVERY_PAIR, 1.0
        if self.yarn is not None:
            fast, slow = (self.size * math.log(2048 / (turns * 2 * math.pi)) / (2 * math.log(self.base)) for turns in self.yarn)
            ramp, magnitude = (float(math.floor(fast)), float(math.ceil(slow))), 1 + 0.1 * math.log(1 / self.scale)
        return {
            "base": self.base, "dims": self.size, "scale": self.scale, "ramp_start": ramp[0], "ramp_end": ramp[1], "magnitude": magnitude,
        }  # fmt: skip


POSITIONS = (0, 1, 7, 1000, 4000, 32000)
ROPE_HEADS = 2
ROPES = {
    "1e4": RopeCase(1e4, 64, "interleaved"),
    "1e5": RopeCase(1e5, 64),
    "1e6": RopeCase(1e6, 128),
    "linear": RopeCase(1e5, 64, scale=0.25),
    "factors": RopeCase(5e5, 128, "interleaved", with_factors=True),
    "yarn": RopeCase(1e4, 64, scale=0.125, yarn=(32.0, 1.0)),
}


def rope_inputs(case: RopeCase) -> tuple[Any, Any]:
    """x, f32 [positions, heads · size], and factors, f32 [size / 2]."""
    rng = np.random.default_rng(13)
    x = rng.standard_normal((len(POSITIONS), ROPE_HEADS * case.size)).astype(np.float32)
    return x, (1 + 7 * rng.random(case.size // 2)).astype(np.float32)


# -- GELU -----------------------------------------------------------------------------------------------------------------


def gelu_input() -> Any:
    """f32 [1, 2000], on both sides of the bounds of the table."""
    return np.random.default_rng(14).normal(0, 4, (1, 2000)).astype(np.float32)


# -- attention ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionCase:
    """``n`` queries after ``t - n`` earlier positions; four query heads to two of keys. With several ``threads`` there are as many cells
    for keys as llama.cpp has, the last of them masked.
    """

    n: int
    t: int
    size: int = 64
    window: int = 0
    cap: float = 0.0
    with_sinks: bool = False
    flash: bool = True
    threads: int = 1

    @property
    def cells(self) -> int:
        """How many keys ggml is given."""
        return self.t if self.threads == 1 else -(-self.t // CELLS) * CELLS

    @property
    def kept(self) -> slice:
        """The positions that the file holds."""
        return slice(None, None, 10 if self.n >= 64 else 1)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of `attention`."""
        found = {"heads": 4, "kv_heads": 2, "scale": float(np.float32(1 / math.sqrt(self.size))), "window": self.window}
        return {**found, "cap": self.cap} if self.cap else found


ATTENTIONS = {
    "7": AttentionCase(7, 7),
    "7-off": AttentionCase(7, 7, flash=False),
    "70": AttentionCase(70, 70),
    "70-off": AttentionCase(70, 70, flash=False),
    "70-sinks": AttentionCase(70, 70, with_sinks=True),
    "decode": AttentionCase(1, 300),
    "window": AttentionCase(20, 45, 80, window=16),  # heads whose size is no multiple of 32
    "cap": AttentionCase(20, 45, 128, cap=5.0),
    "sinks": AttentionCase(20, 45, with_sinks=True),
    "sinks-off": AttentionCase(20, 45, with_sinks=True, flash=False),
    "2-threads": AttentionCase(1, 300, threads=2),
    "3-threads": AttentionCase(1, 600, 80, threads=3),
    "7-threads": AttentionCase(1, 257, 20, threads=7),
    "3-threads-few": AttentionCase(1, 256, threads=3),
    "3-threads-2-positions": AttentionCase(2, 300, threads=3),
    "2-threads-window": AttentionCase(1, 600, window=400, threads=2),
    "3-threads-cap": AttentionCase(1, 400, cap=5.0, threads=3),
    "3-threads-sinks": AttentionCase(1, 400, with_sinks=True, threads=3),
}


def attention_inputs(case: AttentionCase) -> tuple[Any, Any, Any, Any]:
    """q, k and v, f32 [positions, heads, size], and the sinks of the four heads."""
    rng = np.random.default_rng(15)
    q = rng.standard_normal((case.n, 4, case.size)) * 1.5
    k, v = (rng.standard_normal((case.t, 2, case.size)) for _ in "kv")
    return (*(each.astype(np.float32) for each in (q, k, v)), rng.standard_normal(4).astype(np.float32))

"""What rounding to a block format may cost: the bound against the gguf package's decoder, with codes one step away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, dequantize

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.low_rank import find_rank
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rounding import decode_rows
from tests.support.changed_model import F32
from tests.support.tiny_blocks import random_values

#: Where the codes' lowest bits lie: the field of a block, and the bits that are one step in each code of a byte.
STEPS = {
    "Q8_0": ("qs", 0x01), "Q4_0": ("qs", 0x11), "Q4_1": ("qs", 0x11), "Q5_0": ("qs", 0x11), "Q5_1": ("qs", 0x11), "IQ4_NL": ("qs", 0x11),
    "MXFP4": ("qs", 0x11), "Q2_K": ("qs", 0x55), "Q3_K": ("qs", 0x55), "Q4_K": ("qs", 0x11), "Q5_K": ("qs", 0x11), "Q6_K": ("ql", 0x11),
    "IQ4_XS": ("qs", 0x11),
}  # fmt: skip
ROWS, COLUMNS = 64, 512


def blocks_and_steps(name: str) -> tuple[F32, F32, Decoded]:
    """Decoded blocks, each element's distance to a level beside its own, both by the gguf package, and what our decoder says."""
    fmt, rng = BLOCK_FORMATS[name], np.random.default_rng(3)
    raw = random_raw(name, rng)
    field, bits = STEPS[name]
    start = fmt.offset(field)
    beside = raw.reshape(-1, fmt.block_bytes).copy()
    beside[:, start : start + fmt.field(field).count] ^= bits
    kind = GGMLQuantizationType[name]
    values, others = (dequantize(side.reshape(ROWS, -1), kind).astype(np.float32) for side in (raw, beside))
    return values, others - values, decode_rows(fmt, raw, COLUMNS)


def random_raw(name: str, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(random_values(name, (ROWS, COLUMNS), 0.05, rng), np.uint8).reshape(ROWS, -1)


def measured(floats: F32, decoded: Decoded, unit: int) -> Measures:
    found = Measures()
    found.add(np.arange(ROWS), Decoded(floats, np.zeros_like(floats)), decoded, unit)
    return found


@pytest.mark.contract("WEIGHTS-BOUND-1")
@pytest.mark.parametrize("name", STEPS)
def test_half_a_gap_is_explained_and_two_are_not(name: str) -> None:
    values, steps, decoded = blocks_and_steps(name)
    assert np.allclose(decoded.values, values, rtol=1e-5, atol=1e-9)
    assert (np.abs(steps) / 2 <= decoded.radius * (1 + 1e-5)).all()
    share = np.random.default_rng(4).uniform(0, 0.5, steps.shape).astype(np.float32)
    unit = BLOCK_FORMATS[name].elements
    assert measured(values + share * steps, decoded, unit).is_rounding
    beyond = measured(values + 2 * steps, decoded, unit)
    assert beyond.bad_units > 0.9 * beyond.units


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_plain_formats_are_judged_element_by_element(name: str) -> None:
    floats = np.full((ROWS, COLUMNS), 1.001, np.float32)  # all err in one direction, by up to half a unit in the last place
    raw = floats.astype(np.float16).view(np.uint8) if name == "F16" else (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    decoded = decode_rows(BLOCK_FORMATS[name], raw, COLUMNS)
    assert measured(floats, decoded, 1).is_rounding
    assert not measured(floats * np.float32(1.02), decoded, 1).is_rounding


class Held:
    """Rows in memory, of F32."""

    unit = 1

    def __init__(self, values: F32) -> None:
        self.values = values
        self.count, self.columns = values.shape

    def fetch(self, rows: npt.NDArray[np.int64]) -> Decoded:
        return Decoded(self.values[rows], np.abs(self.values[rows]) * np.float32(2.0**-24))


def test_a_difference_that_is_0_in_most_directions_has_its_rank() -> None:
    values = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    other = values.copy()
    other[[3, 40]] += 1 + values[[5, 6]]
    found = find_rank(Held(values), Held(other))
    assert found is not None
    assert found[0] == 2


@pytest.mark.parametrize("factor", [1.08, 0.9, -1.0])
def test_a_factor_is_no_rounding_though_blocks_allow_it(factor: float) -> None:
    values, steps, decoded = blocks_and_steps("Q4_0")
    share = np.random.default_rng(4).uniform(0, 0.5, steps.shape).astype(np.float32)
    assert not measured((values + share * steps) * np.float32(factor), decoded, 32).is_rounding

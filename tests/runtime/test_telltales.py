"""What an error gives away by itself: planted, and named."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.ir import Node, TensorType
from aprgraph.graph.ops import OPS, Array
from aprgraph.runtime.blame.telltales import Evidence, find_telltale

N, HEADS, D = 7, 3, 16
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, HEADS * D))
WEIGHT = 1 + 0.1 * RNG.standard_normal(HEADS * D)


def rms_norm(weight: Array = WEIGHT, eps: float = 1e-5) -> Array:
    return OPS["rms_norm"].reference([X, weight], {"eps": eps, "groups": 1})  # type: ignore[misc]


def layer_norm(*bias: Array, weight: Array = WEIGHT) -> Array:
    return OPS["layer_norm"].reference([X, weight, *bias], {"eps": 1e-5, "groups": 1})  # type: ignore[misc]


def angles(base: float = 1e4, scale: float = 1.0, magnitude: float = 1.0, first: int = 0, factors: Array | None = None) -> Array:
    attrs = {"base": base, "dims": D, "scale": scale, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": magnitude}
    operands = [np.arange(first, first + N), *([] if factors is None else [factors])]
    return OPS["rope_angles"].reference(operands, attrs)  # type: ignore[misc]


def rope(table: Array, pairing: str = "halves") -> Array:
    attrs = {"heads": HEADS, "head_size": D, "start": 0, "pairing": pairing}
    return OPS["rope"].reference([X, table], attrs)  # type: ignore[misc]


def telltale(op: str, operands: list[Array], recorded: Array) -> str | None:
    attrs = {"eps": 1e-5, "groups": 1} if op.endswith("norm") else {"heads": HEADS, "head_size": D, "start": 0, "pairing": "halves"}
    node = Node("x", op, TensorType("f32", ("n", HEADS * D)), attrs)  # type: ignore[arg-type]
    return find_telltale(Evidence(node, operands, recorded.astype(np.float32).astype(np.float64)))


def one_off(channel: int) -> Array:
    weight = WEIGHT.copy()
    weight[channel] = 0.5
    return weight


NORMS = {
    "it fits a norm whose weight is 1 less than the file's in every channel": rms_norm(WEIGHT - 1),
    "it fits a norm whose weight is 1 more than the file's in every channel": rms_norm(WEIGHT + 1),
    "it fits a norm whose weight is 1 in every channel": rms_norm(np.ones_like(WEIGHT)),
    "it fits a norm whose weight is 2 times the file's": rms_norm(2 * WEIGHT),
    "it fits a norm whose weight differs from the file's at channel 9 (0.5 for": rms_norm(one_off(9)),
    "it fits a norm with another weight (from": rms_norm(WEIGHT[::-1].copy()),
    "it fits an epsilon of 0.3 in place of 1e-05": rms_norm(eps=0.3),
    "it fits a LayerNorm, which takes the mean off": layer_norm(),
    "what was recorded is all zeros": np.zeros_like(X),
    "what was recorded is the stage's unchanged input": X,
    "what was recorded is zero at positions 2, 3": np.where(np.isin(np.arange(N), (2, 3))[:, None], 0, rms_norm()),
}


@pytest.mark.contract("BLAME-TELLTALE-1")
@pytest.mark.parametrize("words", NORMS)
def test_norms(words: str) -> None:
    assert str(telltale("rms_norm", [X, WEIGHT], NORMS[words])).startswith(words)


@pytest.mark.contract("BLAME-TELLTALE-1")
def test_layer_norms() -> None:
    bias = WEIGHT[::-1] - 1
    assert telltale("layer_norm", [X, WEIGHT, bias], rms_norm() + bias) == "it fits a norm that leaves the mean in"
    assert telltale("layer_norm", [X], rms_norm(np.ones_like(WEIGHT))) == "it fits a norm that leaves the mean in"
    assert telltale("layer_norm", [X, WEIGHT], layer_norm(weight=WEIGHT + 1)) is None


FACTORS = np.repeat([1.0, 8.0], [4, D // 2 - 4])
TURNS = {
    "it fits a base of 1e+06": rope(angles(1e6)),
    "it fits a base of 500000": rope(angles(5e5)),
    "it fits a base of 10000 and frequencies times 0.25": rope(angles(1e4, scale=0.25)),
    "it fits a base of 1e+06 and positions that begin at 1": rope(angles(1e6, first=1)),
    "it fits the file's frequencies and positions that begin at 1": rope(angles(first=1)),
    "it fits cos and sin times 1.2 in place of 1": rope(angles(magnitude=1.2)),
    "it fits pairs of neighbours (2i, 2i + 1) in place of halves (i, i + D/2)": rope(angles(), "interleaved"),
    "it fits frequencies 0.125 times the file's at pairs 4, 5, 6, 7": rope(angles(factors=FACTORS)),
}


@pytest.mark.contract("BLAME-TELLTALE-1")
@pytest.mark.parametrize("words", TURNS)
def test_rope(words: str) -> None:
    assert telltale("rope", [X, angles()], TURNS[words]) == words


@pytest.mark.contract("BLAME-TELLTALE-2")
@pytest.mark.parametrize("seed", range(5))
def test_noise_gives_nothing_away(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for size in (1e-6, 1e-3, 1.0):
        assert telltale("rms_norm", [X, WEIGHT], rms_norm() * (1 + size * rng.standard_normal(X.shape))) is None
        assert telltale("rope", [X, angles()], rope(angles()) + size * rng.standard_normal(X.shape)) is None


def test_one_position_explains_everything_and_so_nothing() -> None:
    node = Node("x", "rms_norm", TensorType("f32", ("n", 4)), {"eps": 1e-5, "groups": 1})
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert find_telltale(Evidence(node, [x, np.ones(4)], np.array([[4.0, 1.0, 1.0, 1.0]]))) is None

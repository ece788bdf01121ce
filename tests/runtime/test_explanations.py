"""What explains a wrong stage: planted, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import OPS, Array
from aprgraph.runtime.blame import audit
from aprgraph.runtime.explain import Around, Evidence, Explainer, Explanation, known_mistakes
from aprgraph.runtime.readings import known_conventions
from tests.support.blame import spoil, traced

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


ATTRS: dict[str, dict[str, object]] = {
    "rms_norm": {"eps": 1e-5, "groups": 1},
    "layer_norm": {"eps": 1e-5, "groups": 1},
    "rope": {"heads": HEADS, "head_size": D, "start": 0, "pairing": "halves"},
    "linear": {},
}


def nmse(a: Array, b: Array) -> float:
    return float(np.square(a - b).sum() / np.square(a).sum())


def explain(op: str, operands: list[Array], recorded: Array, limit: float = 1e-11) -> Explanation | None:
    """The explanation of one node that reads ``operands``, each of them an input or a weight of the graph."""
    attrs = ATTRS[op]
    graph, names = Graph("alone"), [f"operand{index}" for index in range(len(operands))]
    for index, (name, operand) in enumerate(zip(names, operands, strict=True)):
        is_weight = op != "rope" and index > 0
        kind = TensorType("f32", operand.shape if is_weight else ("n", operand.shape[1]))
        given = {"tensor": name, "dims": operand.shape, "dtype": "f32"} if is_weight else {"type": str(kind)}
        graph.add(Node(name, "weight" if is_weight else "recorded", kind, given))  # type: ignore[arg-type]
    node = graph.add(Node("x", op, TensorType("f32", ("n", recorded.shape[1])), attrs, "x"), names)  # type: ignore[arg-type]
    values = dict(zip(names, operands, strict=True))
    right = OPS[op].reference(operands, attrs)  # type: ignore[misc, arg-type]
    as_recorded = recorded.astype(np.float32).astype(np.float64)

    def error(value: Array) -> float | None:
        found = nmse(as_recorded, value) if as_recorded.any() else float(value.any())
        return found if found <= min(limit, 1e-2 * nmse(right, as_recorded)) else None

    model = SimpleNamespace(tensor=lambda _: SimpleNamespace(in_pieces=None, format=BLOCK_FORMATS["F32"]), vocabulary=0)
    around = Around(model, graph, [], lambda weight, _: values[weight.name], lambda _: None, (), np.arange(N), {})  # type: ignore[arg-type]
    return Explainer().explain(Evidence(node, as_recorded, error, graph, {**values, "x": right}, around))


def words_of(found: Explanation | None) -> str:
    return "" if found is None else found.first.words


def one_off(channel: int) -> Array:
    weight = WEIGHT.copy()
    weight[channel] = 0.5
    return weight


NORMS = {
    "the norm's weight is 1 less than the file's in every channel": rms_norm(WEIGHT - 1),
    "the norm's weight is 1 more than the file's in every channel": rms_norm(WEIGHT + 1),
    "the norm is without its weight": rms_norm(np.ones_like(WEIGHT)),
    "the norm's weight is 0.5 in every channel": rms_norm(np.full_like(WEIGHT, 0.5)),
    "the norm's weight is 2 times the file's": rms_norm(2 * WEIGHT),
    "the norm's weight differs from the file's at channel 9 (0.5 for": rms_norm(one_off(9)),
    "the norm has another weight (from": rms_norm(WEIGHT[::-1].copy()),
    "epsilon is 1e-06 in place of 1e-05": rms_norm(eps=1e-6),
    "epsilon is 0.3 in place of 1e-05": rms_norm(eps=0.3),
    "the norm is a LayerNorm, which takes the mean off": layer_norm(),
    "it is all zeros": np.zeros_like(X),
    "x is left out: what it reads, operand0, goes on as it is": X,
    "positions 2, 3 of x are zero": np.where(np.isin(np.arange(N), (2, 3))[:, None], 0, rms_norm()),
}


@pytest.mark.contract("BLAME-EXPLAINED-1")
@pytest.mark.parametrize("words", NORMS)
def test_norms(words: str) -> None:
    assert words_of(explain("rms_norm", [X, WEIGHT], NORMS[words])).startswith(words)


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_an_epsilon_that_most_positions_do_not_show() -> None:
    """First tokens often have numbers a thousand times as large as others."""
    x = X * np.where(np.arange(N) < 5, 1000.0, 5.0)[:, None]
    root = np.sqrt(np.square(x).mean(axis=1, keepdims=True))
    for words, divisor in (
        ("epsilon is 0.003 in place of 1e-05", np.sqrt(root**2 + 3e-3)),
        ("0.003 is added to the root, and not epsilon, 1e-05, under it", root + 3e-3),
    ):
        assert words_of(explain("rms_norm", [x, WEIGHT], x / divisor * WEIGHT)) == words
    x[5] *= 200  # then one position shows it, and that may be whatever happened there
    divisor = np.sqrt(np.square(x).mean(axis=1, keepdims=True) + 3e-3)
    assert not words_of(explain("rms_norm", [x, WEIGHT], x / divisor * WEIGHT)).startswith("epsilon")


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_layer_norms() -> None:
    bias = WEIGHT[::-1] - 1
    assert words_of(explain("layer_norm", [X, WEIGHT, bias], rms_norm() + bias)) == "the norm leaves the mean in"
    assert words_of(explain("layer_norm", [X, WEIGHT, bias], layer_norm())) == "operand2 is left out"
    assert words_of(explain("layer_norm", [X], rms_norm(np.ones_like(WEIGHT)))) == "the norm leaves the mean in"


FACTORS = np.repeat([1.0, 8.0], [4, D // 2 - 4])
TURNS = {
    "RoPE turns by a base of 1e+06": rope(angles(1e6)),
    "RoPE turns by a base of 500000": rope(angles(5e5)),
    "RoPE turns by a base of 10000 and frequencies times 0.25": rope(angles(1e4, scale=0.25)),
    "RoPE turns by a base of 1e+06 and positions that begin at 1": rope(angles(1e6, first=1)),
    "RoPE turns by the file's frequencies and positions that begin at 1": rope(angles(first=1)),
    "cos and sin are multiplied by 1.2 in place of 1": rope(angles(magnitude=1.2)),
    "RoPE pairs neighbours (2i, 2i + 1) in place of halves (i, i + 8)": rope(angles(), "interleaved"),
    "RoPE turns by frequencies 0.125 times the file's at pairs 4, 5, 6, 7": rope(angles(factors=FACTORS)),
    "RoPE is left out": X,
}


@pytest.mark.contract("BLAME-EXPLAINED-1")
@pytest.mark.parametrize("words", TURNS)
def test_rope(words: str) -> None:
    assert words_of(explain("rope", [X, angles()], TURNS[words])) == words


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1e-11, 1e-3, 1.0])
def test_noise_is_not_explained(seed: int, limit: float) -> None:
    """However much a tolerance would allow."""
    rng = np.random.default_rng(seed)
    for size in (1e-6, 1e-3, 1.0):
        assert explain("rms_norm", [X, WEIGHT], rms_norm() * (1 + size * rng.standard_normal(X.shape)), limit) is None
        assert explain("rope", [X, angles()], rope(angles()) + size * rng.standard_normal(X.shape), limit) is None


ROWS = RNG.standard_normal((4, 2048))
MATRIX = RNG.standard_normal((64, 2048))


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_an_element_and_a_block_of_a_weight() -> None:
    element, block = MATRIX.copy(), MATRIX.copy()
    element[5, 1000] = 3.0
    block[7, 64:96] *= -2
    found = words_of(explain("linear", [ROWS, MATRIX], ROWS @ element.T))
    assert found == f"element (5, 1000) of operand1 is 3 in place of {MATRIX[5, 1000]:.6g}"
    assert words_of(explain("linear", [ROWS, MATRIX], ROWS @ block.T)) == "block 2 of row 7 of operand1 is -2 times the file's"


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("seed", range(5))
def test_an_error_that_one_of_thousands_of_weights_might_explain_by_chance(seed: int) -> None:
    """Of four positions, one column in a few thousand is nearly parallel to any error."""
    recorded = ROWS @ MATRIX.T
    recorded[:, 5] += np.random.default_rng(seed).standard_normal(4)
    for positions in (1, 2, 3, 4):
        assert explain("linear", [ROWS[:positions], MATRIX], recorded[:positions], limit=1e-2) is None


@pytest.mark.contract("BLAME-EXPLAINED-2")
def test_one_position_explains_everything_and_so_nothing() -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert explain("rms_norm", [x, np.ones(4)], np.array([[4.0, 1.0, 1.0, 1.0]])) is None


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_two_mistakes_at_once(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """RoPE of another base that pairs other elements: neither alone explains it, and noise has no two mistakes either."""
    model = tiny_model(layers=1)
    trace = traced(tmp_path / "trace", model, layers="0..1")
    other = load_model(model)
    graph = build_graph(other)
    node = next(one for one in graph.staged() if one.stage == "k_post_rope")
    table = graph[graph.operand_names(node.name)[1]]
    x = np.asarray(trace.tensor("qkv_matmul", 0))
    angles_of_another = OPS["rope_angles"].reference([np.arange(len(x))], {**table.attrs, "base": 1e6})  # type: ignore[misc]
    turned = OPS["rope"].reference([x, angles_of_another], {**node.attrs, "pairing": "halves"})  # type: ignore[misc]
    spoil(trace, "k_post_rope", 0, lambda _: turned)
    (wrong,) = (local for local in audit(trace, other).wrong if local.key.stage == "k_post_rope")
    assert wrong.explanation is not None
    assert wrong.explanation.first.name in ("rope-pairing + rope-base", "rope-base + rope-pairing")


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_the_page_has_all_that_is_tried() -> None:
    table = [f"| {ops} | {words} |" for ops, words in known_mistakes()]
    text = (Path(__file__).parents[2] / "docs" / "explanations.md").read_text(encoding="utf-8")
    assert text.endswith("\n".join(["|---|---|", *table, ""]))
    conventions = [f"| {of} | {words} |" for of, words in known_conventions()]
    assert "\n".join(["|---|---|", *conventions, ""]) in text


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_mistakes_that_a_trace_does_not_tell_apart_are_all_named(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """A window of one position more than four, of a text of five: as good as none."""
    model = tiny_model(family="phi3", layers=1, sliding_window=4)
    wider = aprgraph.load(model, {"phi3.attention.sliding_window": 5}).compile("reference", tmp_path / "wider.aprg")
    trace = wider.run("all", "0..1", tokens=[3, 1, 4, 1, 5], directory=tmp_path / "trace")
    found = audit(trace, load_model(model))
    assert {local.key.stage for local in found.wrong} == {"attn_scores", "attn_softmax", "attention"}
    for local in found.wrong:
        assert local.explanation is not None
        assert [one.words for one in local.explanation.candidates] == ["its window is of 5 positions in place of 4", "it has no window"]
        assert str(local.telltale).endswith(": this trace does not tell these apart; of a longer prompt they may part")

"""Numbers that a kernel takes when it is called, such as an epsilon: what shares a kernel with another value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import aprgraph
from aprgraph.codegen.cpu import objects
from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise
from tests.support.compiled import shared_model, use_cache
from tests.support.golden import nmse
from tests.support.kernels import f32, i32, request

TOLERANCE = 1e-11
X, KEYS = f32("n", 8), f32("t", 8)
HEADS = {"heads": 2, "kv_heads": 2}
SCORES: dict[str, float] = {"scale": 0.5, "cap": 50.0, "window": 2}
ROPE: dict[str, float] = {"base": 1e4, "scale": 1.0, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0}

#: By op: operands, attributes, and those of them that are numbers which shape no code.
CASES: Mapping[str, tuple[Sequence[TensorType], Mapping[str, Attr], Mapping[str, float]]] = {
    "rms_norm": ([X, f32(8)], {"groups": 1}, {"eps": 1e-5}),
    "layer_norm": ([X, f32(8)], {"groups": 1}, {"eps": 1e-5}),
    "rope_angles": ([i32("n")], {"dims": 4}, ROPE),
    "embed": ([i32("n"), f32(9, 8)], {}, {"scale": 2.0}),
    "router_weights": ([X, f32("n", 2)], {"normalise": True}, {"scale": 2.0}),
    "sparse_mixer": ([X, f32("n", 2)], {}, {"tolerance": 0.02}),
    "query_temperature": ([i32("n")], {}, {"strength": 0.1, "span": 4, "offset": 1}),
    "l2_norm": ([X], {"groups": 2}, {"eps": 1e-6}),
    "match_rms": ([X, f32("n", 4)], {}, {"least": 1e-5}),
    "gaussian_top_k": ([X], {}, {"factor": 1.5}),
    "xielu": ([X], {}, {"alpha_p": 0.8, "alpha_n": 0.7, "beta": 0.5, "eps": -1e-6}),
    "scale": ([X], {}, {"factor": 2.0}),
    "soft_cap": ([X], {}, {"cap": 50.0}),
    "clamp": ([X], {}, {"bound": 8.0}),
    "clamped_swiglu": ([X, X], {}, {"limit": 7.0, "alpha": 1.702}),
    "attn_scores": ([X, KEYS], HEADS, SCORES),
    "attn_softmax": ([f32(2, "n", "t")], {}, {"window": 2}),
    "attn_mix": ([f32(2, "n", "t"), KEYS], {"kv_heads": 2}, {"window": 2}),
    "attention": ([X, KEYS, KEYS], HEADS, SCORES),
}


@pytest.mark.contract("DET-CACHE-2")
@pytest.mark.parametrize("op", CASES)
def test_another_number_needs_no_other_kernel(op: str) -> None:
    operands, attrs, numbers = CASES[op]
    other = {name: value + 3 for name, value in numbers.items()}
    requests = [request(op, operands, **attrs, **values) for values in (numbers, other)]
    assert requests[0].symbol == requests[1].symbol
    assert [each.numbers for each in requests] == [numbers, other]
    assert [list(each.numbers) for each in requests] == [list(numbers)] * 2  # the order in which kernels take them


def test_there_is_no_other_op_with_a_real_number() -> None:
    """But those of a user's file: their formulas may do with an attribute what they like."""
    ops = [op for op in OPS.values() if not (isinstance(op, Elementwise) and op.is_own)]
    without_kernels = {"rope_angles_chained", "flash_attention"}  # of engines' arithmetics
    found = {op.name for op in ops if float in op.attrs.values()}
    assert found <= {*CASES, *without_kernels, "delta_rule"}  # no file says its scale, which a size gives


@pytest.mark.parametrize(
    ("number", "left_out", "text"),
    [
        ("cap", 0.0, "attn_scores(f32[n, 8], f32[t, 8], scale, window) {cap = 0.0, heads = 2, kv_heads = 2} : f32[2, n, t]"),
        ("window", 0, "attn_scores(f32[n, 8], f32[t, 8], scale, cap) {heads = 2, kv_heads = 2, window = 0} : f32[2, n, t]"),
    ],
)
def test_what_is_left_out_costs_nothing(number: str, left_out: float, text: str) -> None:
    """There is another kernel, which has no code for it."""
    assert request("attn_scores", [X, KEYS], **HEADS, **{**SCORES, number: left_out}).text == text


@pytest.mark.contract("DET-CACHE-2")
def test_an_override_of_a_number_compiles_no_kernel(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    path = shared_model(tiny_model)
    plain = aprgraph.load(path).compile(directory=tmp_path / "plain.aprg")

    def refused(*_arguments: object) -> bytes:
        raise AssertionError("a kernel was compiled")

    monkeypatch.setattr(objects, "_compile", refused)
    numbers = {"llama.rope.freq_base": 500.0, "llama.rope.scaling.factor": 4.0, "llama.attention.layer_norm_rms_epsilon": 0.5}
    changed = aprgraph.load(path, numbers).compile(directory=tmp_path / "changed.aprg")
    assert changed.artifact.kernels == plain.artifact.kernels
    assert changed.artifact.library.read_bytes() == plain.artifact.library.read_bytes()
    exact = aprgraph.load(path, numbers).compile("reference", tmp_path / "exact.aprg")
    actual, expected, other = (
        model.run("all", tokens=[9, 8, 7], directory=tmp_path / f"{index}") for index, model in enumerate((changed, exact, plain))
    )
    for entry in expected.entries:
        assert nmse(actual.tensor(entry.stage, entry.layer), expected.load(entry)) < TOLERANCE, entry.label
    assert nmse(other.tensor("lm_head"), expected.tensor("lm_head")) > 1e-3

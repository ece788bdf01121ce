"""Whole models in another arithmetic: what the roundings of every layer come to must be alike under the profile that is chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.families import FAMILIES
from aprgraph.graph.ir import Node
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import InsertTaps, Prune, run_passes
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import print_graph
from aprgraph.runtime.decoded_weights import decode_weight
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.tolerances import find_tolerance
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.arithmetic import F64, Rounding, run_in, to_bfloat16, to_float16, to_float32, to_q8_0, to_q8_k
from tests.support.models import require_smollm2

TOKENS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5)


@dataclass(frozen=True)
class Arithmetic:
    """How the other engine computes, what its manifest says of it, and which profile has to be chosen for that.

    ``format`` is that of the weights of the file; ``other_format``, where the other engine has other weights, that of its own.
    """

    profile: str
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    format: str = "F32"
    other_format: str | None = None


Q8 = {"arithmetic": "q8-activations"}
ARITHMETICS = {
    "float32": Arithmetic("same-graph-f32", {"inputs": to_float32, "outputs": to_float32}),
    "float16": Arithmetic("same-graph-f16", {"inputs": to_float16, "outputs": to_float16}, {"arithmetic": "float16"}),
    "float16 cache": Arithmetic("same-graph-f16", {"attention_inputs": to_float16}, {"arithmetic": "float16"}),
    "bfloat16": Arithmetic("same-graph-bf16", {"inputs": to_bfloat16, "outputs": to_bfloat16}, {"arithmetic": "bfloat16"}),
    "8-bit activations": Arithmetic("cross-engine-q8act", {"inputs": to_q8_0, "attention_inputs": to_float16}, Q8, "Q4_0"),
    "8-bit activations beside K-quants": Arithmetic("cross-engine-q8k", {"inputs": to_q8_k, "attention_inputs": to_float16}, Q8, "Q4_K"),
    "float weights against Q4_0": Arithmetic("quant-vs-float", {}, {"weights": "float"}, "Q4_0", "F32"),
    "float weights against Q8_0": Arithmetic("quant-vs-float", {}, {"weights": "float"}, "Q8_0", "F32"),
}


def trace_in(
    directory: Path,
    path: Path,
    roundings: Mapping[str, Rounding] | None = None,
    says: Mapping[str, str] | None = None,
    *,
    layers: int = 2,
    tokens: tuple[int, ...] = TOKENS,
    weights: Callable[[Node], F64] | None = None,
    taps: str = "all",
    overrides: Mapping[str, Any] | None = None,
) -> Trace:
    """A trace of a model, in float64 but for the roundings."""
    model = load_model(path, overrides)
    graph = run_passes(build_graph(model), [InsertTaps(parse_plan(taps, f"0..{layers}")), Prune()])
    writer = TraceWriter(directory)
    for node, value in run_in(graph, model, tokens, weights=weights, **(roundings or {})):
        if node.op == "tap":
            assert node.stage is not None
            writer.write(node.name.removeprefix("tap."), node.stage, node.layer, 0, value.astype(np.float32))
    return writer.finish(
        TraceInfo({"name": path.name, "fingerprint": "f"}, "reference", tokens, "all", "last", print_graph(graph), says or {})
    )


@pytest.mark.contract("DIFF-NOISE-1", "DIFF-PROFILE-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_whole_model_in_another_arithmetic_is_alike(tmp_path: Path, tiny_model: Callable[..., Path], name: str, family: str) -> None:
    arithmetic = ARITHMETICS[name]
    a = trace_in(tmp_path / "a", tiny_model(family=family, format=arithmetic.format))
    other = tiny_model(family=family, format=arithmetic.other_format or arithmetic.format)
    b = trace_in(tmp_path / "b", other, arithmetic.roundings, arithmetic.says)
    for sides in ((a, b), (b, a)):
        report = diff(*sides)
        assert report.profile == arithmetic.profile
        assert report.exit_code == 0, report.verdict
        assert any(note.startswith(f"tolerances of {arithmetic.profile}: ") for note in report.notes)
    graph = a.graph()
    assert graph is not None
    if name != "float32" and (name != "float16 cache" or graph.with_op("cache")):
        assert diff(a, b, profile="same-graph-f32").exit_code == 1, "noise of another arithmetic is more than float32 explains"


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize(
    "name",
    ["8-bit activations", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("float16", "8-bit activations beside K-quants"))],
)
def test_thirty_layers_in_another_arithmetic_are_alike(name: str, tmp_path: Path) -> None:
    """The model that the table's end-to-end numbers were measured on; its activations have a few very large values."""
    path, tokens = require_smollm2(), (1, 9690, 198, 2683, 359, 253, 5356)
    model, decoded = load_model(path), dict[str, Any]()

    def weights(node: Node) -> Any:
        """As float32, which holds them exactly: decoding takes longer than all the rest."""
        if node.name not in decoded:
            decoded[node.name] = decode_weight(model, node).astype(np.float32)
        return decoded[node.name]

    arithmetic, taps = ARITHMETICS[name], "qkv_matmul,attention,attn_out,ffn_swigl,ffn_out,lm_head"
    a = trace_in(tmp_path / "a", path, layers=30, tokens=tokens, weights=weights, taps=taps)
    b = trace_in(tmp_path / "b", path, arithmetic.roundings, arithmetic.says, layers=30, tokens=tokens, weights=weights, taps=taps)
    report = diff(a, b, profile=arithmetic.profile)
    assert report.exit_code == 0, report.verdict
    assert report.compared == 151
    worst = max(row.error or 0.0 for row in report.rows_compared)
    assert worst > find_tolerance(arithmetic.profile, "ffn_gate").limit / 1000, worst

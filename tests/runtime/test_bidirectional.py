"""Models that are not causal: llama.cpp is right about them by the replay, and what would need a causal model is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import TokenError
from aprgraph.graph.ir import renamed
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import FuseAttention
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify
from aprgraph.runtime.blame import audit
from aprgraph.runtime.diff.graph_differences import compare_graphs
from aprgraph.runtime.readings.layout import layout_of
from tests.golden.make_llama_cpp_stages import llama_cpp_trace, write_model
from tests.support.cli import run_cli

Tiny = Callable[..., Path]


@pytest.mark.contract("BIDIRECTIONAL-WITNESS-1")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_llama_cpp_is_right_at_every_stage(family: str, tmp_path: Path) -> None:
    model = write_model(f"{family}-bidirectional", tmp_path / "tiny.gguf")
    trace = llama_cpp_trace(f"{family}-bidirectional", tmp_path / "theirs")
    # GELU goes through a table of float16 there.
    found = audit(trace, load_model(model), tolerances=["ffn_swigl=nmse:1e-6"] if family == "gemma3" else [])
    assert [local.label for local in found.wrong] == []
    assert found.replayed == len(trace.entries)
    causal = audit(trace, load_model(model, {f"{family}.attention.causal": True}))
    assert {"attn_scores", "attn_softmax", "attention"} <= {local.key[2] for local in causal.wrong}


@pytest.mark.contract("BIDIRECTIONAL-TEXT-1")
def test_graphs_of_causal_models_have_no_word_about_it(tiny_model: Tiny) -> None:
    text = print_graph(build_graph(load_model(tiny_model())))
    assert text == print_graph(build_graph(load_model(tiny_model(), {"llama.attention.causal": True})))
    assert "causal" not in text
    other = build_graph(load_model(tiny_model(), {"llama.attention.causal": False}))
    lines = [line for line in print_graph(other).splitlines() if "causal = false" in line]
    assert len(lines) == 3 * 2  # scores, softmax and mix of two layers
    assert print_graph(other).replace("causal = false, ", "") == text
    assert parse_graph(print_graph(other)) == other
    said = parse_graph(text.replace("window = 0}", "window = 0, causal = true}"))
    verify(said)


def test_a_difference_is_said_with_the_default(tiny_model: Tiny) -> None:
    one, other = (build_graph(load_model(tiny_model(), {"llama.attention.causal": causal})) for causal in (True, False))
    (difference,) = compare_graphs(one, other).computed
    assert difference.change == "causal = True in A, False in B"
    said = parse_graph(print_graph(one).replace("window = 0}", "window = 0, causal = true}"))
    assert compare_graphs(one, said).computed == ()


def test_scores_of_no_masked_place_have_no_mask(tiny_model: Tiny) -> None:
    graph = build_graph(load_model(tiny_model(), {"llama.attention.causal": False}))
    assert layout_of(graph, graph["layer0.attn_scores"], (4, 3, 3)).mask is None
    causal = build_graph(load_model(tiny_model()))
    mask = layout_of(causal, causal["layer0.attn_scores"], (4, 3, 3)).mask
    assert mask is not None
    assert np.array_equal(mask, np.tri(3, dtype=bool))


def test_only_ops_that_mask_alike_are_fused(tiny_model: Tiny) -> None:
    graph = build_graph(load_model(tiny_model(), {"llama.attention.causal": False}))
    fused = FuseAttention()(graph)
    assert fused["layer0.attention"].op == "attention"
    assert fused["layer0.attention"].attrs["causal"] is False
    graph.replace_node(renamed(graph["layer0.attn_softmax"], attrs={"window": 0}))
    assert [FuseAttention()(graph)[f"layer{layer}.attention"].op for layer in (0, 1)] == ["attn_mix", "attention"]


@pytest.mark.contract("BIDIRECTIONAL-STEPS-1")
def test_what_needs_a_causal_model_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    compiled = aprgraph.load(tiny_model(causal=False)).compile("reference", tmp_path / "m.aprg")
    with pytest.raises(TokenError, match=r"max_tokens=2: .* is not causal \(llama.attention.causal is false\): .* leave it out"):
        compiled.run(tokens=(1, 2, 3), max_tokens=2, directory=tmp_path / "t")
    with pytest.raises(TokenError, match="prefill_chunk=2: .* is not causal .* so the 3 positions run in one pass"):
        compiled.run(tokens=(1, 2, 3), prefill_chunk=2, directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert len(compiled.run(tokens=(1, 2, 3), prefill_chunk=3, directory=tmp_path / "t")) > 10
    found = run_cli("run", tmp_path / "m.aprg", "--tokens", "1,2", "-n", "1")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1

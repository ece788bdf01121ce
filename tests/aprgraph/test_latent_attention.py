"""Multi-head latent attention in the two forms that files hold: over the heads of k and v, and over their latent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import states_of
from tests.support.checkpoints import gguf_of, write_checkpoint
from tests.support.compiled import compiled
from tests.support.golden import golden_models

Tiny = Callable[..., Path]
#: Over heads, and over the latent.
NAMES = ("deepseek2-f32", "deepseek3-f32")


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("name", NAMES)
def test_chunks_and_generated_tokens_have_the_bits_of_a_prefill(name: str, tmp_path: Path) -> None:
    model = compiled(gguf_of(name))
    tokens = next(golden.tokens for golden in golden_models() if golden.name == name)
    whole = model.logits(tokens, positions="all")
    for chunk in (1, 4):
        trace = model.run("lm_head", tokens=tokens, directory=tmp_path / f"by {chunk}", positions="all", prefill_chunk=chunk)
        assert trace.tensor("lm_head").tobytes() == whole.tobytes()
    trace = model.run("lm_head", tokens=tokens[:5], directory=tmp_path / "generated", max_tokens=3, steps="0..3")
    assert trace.info is not None
    longer = model.logits([*tokens[:5], *trace.info.extra["generated"][:2]], positions="all")
    for step in range(3):
        assert trace.tensor("lm_head", None, step).tobytes() == longer[4 + step].tobytes()


def test_both_forms_of_a_model_agree_in_every_stage_that_means_the_same(tmp_path: Path) -> None:
    """The GGUF file has matrices of each head, from which attention is over the latent; the checkpoint has the original's."""
    tokens = next(golden.tokens for golden in golden_models() if golden.name == "deepseek3-f32")
    for name, path in (("gguf", gguf_of("deepseek3-f32")), ("checkpoint", write_checkpoint("deepseek3-f32", tmp_path))):
        model = aprgraph.load(path).compile("reference", tmp_path / f"{name}.aprg")
        model.run("all", "0..2", tokens=tokens, directory=tmp_path / f"trace of {name}")
    report = aprgraph.diff(tmp_path / "trace of gguf", tmp_path / "trace of checkpoint", profile="same-graph-f32")
    assert report.exit_code == 0, report.verdict
    compared = {row.key.stage for row in report.rows if row.metrics is not None}
    assert {"q_matmul", "q_pe", "kv_a", "kv_a_norm", "k_pe", "attn_scores", "attn_softmax", "attention", "attn_out", "lm_head"} <= compared
    assert not compared & {"kv_b", "q_absorbed", "attn_latent"}


def test_the_cache_holds_what_the_form_of_the_file_implies() -> None:
    """Of 3 heads, with a latent of 10, 4 elements with positions, heads of k of 6 without them, and heads of v of 5."""
    sizes = {}
    for name in NAMES:
        graph = build_graph(load_model(gguf_of(name)))
        sizes[name] = {node.name.split(".")[1]: node.type.dims[1] for node in states_of(graph) if node.layer == 0}
    assert sizes == {"deepseek2-f32": {"k_cache": 3 * 10, "v_cache": 3 * 5}, "deepseek3-f32": {"kv_cache": 10 + 4}}


def test_queries_that_grow_with_their_position(tiny_model: Tiny) -> None:
    keys = {"deepseek2.attention.temperature_scale": 0.1, "deepseek2.attention.temperature_length": 16}
    graph = build_graph(load_model(tiny_model(family="deepseek2"), keys))
    assert graph["query_temperature"].attrs == {"strength": 0.1, "span": 16}
    assert graph.operand_names("layer0.attn_scores") == ("layer0.q_scaled", "layer0.kv_cache")


def test_yarns_temperature_is_in_the_scale_of_the_scores(tiny_model: Tiny) -> None:
    """A factor of 4, and `yarn_log_multiplier` of 0.1 for an mscale_all_dim of 1; heads of 40."""
    path = tiny_model(family="deepseek2")
    temperature = 1 + 0.1 * np.log(4)
    graph = build_graph(load_model(path))
    assert graph["layer0.attn_scores"].attrs["scale"] == pytest.approx(temperature**2 / 40**0.5)
    assert graph["rope_angles"].attrs["magnitude"] == 1.0
    without = build_graph(load_model(path, {"deepseek2.rope.scaling.yarn_log_multiplier": 0.0}))
    assert without["layer0.attn_scores"].attrs["scale"] == pytest.approx(40**-0.5)
    assert without["rope_angles"].attrs["magnitude"] == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rope.dimension_count": 40}, "rope.dimension_count is 40, expected less than the head size 40"),
        ({"expert_group_count": 3}, r"2 \(deepseek2.expert_group_used_count\) of 3 groups .* of 8 experts"),
        ({"expert_group_used_count": 5}, r"5 \(deepseek2.expert_group_used_count\) of 4 groups"),
        ({"expert_gating_func": 3}, "expert_gating_func is 3; supported is 1, the softmax and 2, the sigmoid"),
    ],
)
def test_numbers_that_contradict_each_other(overrides: dict[str, int], message: str, tiny_model: Tiny) -> None:
    with pytest.raises(AprgraphError, match=message):
        build_graph(load_model(tiny_model(family="deepseek2"), {f"deepseek2.{key}": value for key, value in overrides.items()}))

"""examples/llama_cpp_trace.py: what llama.cpp computed for tiny models (tests/golden) becomes the stages of our own reference."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.runtime.trace.reader import Trace
from tests.golden.make_llama_cpp_recordings import (
    FAMILY_MODELS,
    FAMILY_RECORDINGS,
    MODELS,
    NEXT,
    RECORDINGS,
    TOKENS,
    load_example,
    write_model,
)

example = load_example()
#: What llama.cpp has no tensor of, or no name that could be told from others.
NOT_THERE: dict[str, set[str]] = {"phi3": {"ffn_silu", "post_attn_residual"}, "qwen3moe": set(), "gpt-oss-f32": set()}
#: GELU in float16 leaves an NMSE of 1e-7.
FLOAT16 = ("gemma2-f32", "gemma3")

each_model = pytest.mark.parametrize("family", [*MODELS, *FAMILY_MODELS])


def recorded(family: str) -> Iterator[list[Any]]:
    """The nodes of each pass."""
    with np.load(FAMILY_RECORDINGS if family in FAMILY_MODELS else RECORDINGS) as arrays:
        for step, nodes in enumerate(json.loads(str(arrays["nodes"]))[family]):
            yield [
                example.Node(
                    node["operation"], node["name"], tuple(node["sources"]), arrays[f"{family}/{step}/{index}"], node["scale"],
                    arrays.get(f"{family}/{step}/{index}/mask"),
                )
                for index, node in enumerate(nodes)
            ]  # fmt: skip


def write(family: str, directory: Path, change: Callable[[Any], Any] = lambda node: node) -> Trace:
    """The trace of a recording, each node of which goes through ``change``."""
    tensors: dict[Any, Any] = {}
    for step, nodes in enumerate(recorded(family)):
        count = len(TOKENS) if step == 0 else 1
        stages = example.assemble([change(node) for node in nodes], count, len(TOKENS) + step)
        tensors |= {(layer, stage, step): values for (layer, stage), values in stages.items()}
    return Trace.write(directory, tensors, tokens=TOKENS, model=family, target="llama.cpp")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Our own traces of the prompt, and of the token after it: those of the whole text are cut, for the reference picks its own token."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            compiled = aprgraph.load(write_model(family, place / "tiny.gguf")).compile("reference", place / "tiny.aprg")
            layers = f"0..{compiled.model.family.layers}"
            prompt = compiled.run("all", layers, tokens=TOKENS, directory=place / "prompt")
            whole = compiled.run("all", layers, tokens=(*TOKENS, NEXT), directory=place / "whole")
            tensors = {(entry.layer, entry.stage): prompt.load(entry) for entry in prompt.entries}
            for entry in whole.entries:
                values = whole.load(entry)
                axis = {"attn_scores": 1, "attn_softmax": 1}.get(entry.stage, 0)
                tensors[entry.layer, entry.stage, 1] = values if entry.stage.startswith("lm_head") else values.take([-1], axis=axis)
            Trace.write(place / "ours", tensors, tokens=TOKENS)
            made[family] = place / "ours"
        return made[family]

    return make


@pytest.mark.contract("CAPTURE-LLAMACPP-1")
@each_model
def test_every_stage_that_llama_cpp_has(family: str, ours: Callable[[str], Path], tmp_path: Path) -> None:
    theirs = write(family, tmp_path / "theirs")
    report = aprgraph.diff(ours(family), tmp_path / "theirs", profile="cross-engine-q8act" if family in FLOAT16 else "same-graph-f32")
    assert report.exit_code == 0, report.verdict
    assert {entry.key for entry in theirs.entries} <= {entry.key for entry in Trace.open(ours(family)).entries}
    unmeasured = {row.key[2] for row in report.rows if row.classification.value == "UNMEASURED"}
    assert unmeasured == NOT_THERE.get(family, {"ffn_silu"})
    assert report.compared == len(theirs)


@pytest.mark.contract("BLAME-WITNESS-1")
@each_model
def test_what_llama_cpp_computed_is_right_by_the_replay(family: str, tmp_path: Path) -> None:
    """Prompt and a generated token; GELU from a table in float16 is what the profile of 16 bits covers."""
    theirs = write(family, tmp_path / "theirs")
    model = write_model(family, tmp_path / "tiny.gguf")
    profile = "same-graph-f16" if family in FLOAT16 else None
    found = aprgraph.audit(theirs, model, profile=profile)
    assert found.exit_code == 0, found.sentence
    assert found.replayed >= sum(entry.step == 0 for entry in theirs.entries)


@pytest.mark.parametrize("family", FLOAT16)
def test_gelu_is_all_that_gemma_differs_in(family: str, ours: Callable[[str], Path], tmp_path: Path) -> None:
    write(family, tmp_path / "theirs")
    report = aprgraph.diff(ours(family), tmp_path / "theirs", profile="same-graph-f32")
    assert [first.key[1:] for first in report.first] == [(0, "ffn_swigl")]
    assert max(row.error or 0 for row in report.rows) < 1e-6


@pytest.mark.parametrize(("arithmetic", "weights", "profile"), [
    ("float32", "float", "same-graph-f32"), ("float16", "float", "same-graph-f16"), ("q8-activations", "quantised", "cross-engine-q8act"),
])  # fmt: skip
def test_the_manifest_chooses_the_tolerances(arithmetic: str, weights: str, profile: str, tmp_path: Path) -> None:
    """Neither side has a graph here, so nothing is known of block formats."""
    (nodes, _) = recorded("qwen3")
    Trace.write(tmp_path / "t", example.assemble(nodes, len(TOKENS), len(TOKENS)), tokens=TOKENS, arithmetic=arithmetic, weights=weights)
    Trace.write(tmp_path / "same", example.assemble(nodes, len(TOKENS), len(TOKENS)), tokens=TOKENS, weights=weights)
    report = aprgraph.diff(tmp_path / "same", tmp_path / "t")
    assert report.profile == profile
    assert report.exit_code == 0


#: What is changed: a node's operation and name, and the stages that then diverge first.
FAULTS = {
    "Qcur-1": ("llama", "ROPE", {(0, 1, "q_post_rope"), (1, 1, "q_post_rope")}),
    "kq-0": ("qwen3", "MUL_MAT", {(0, 0, "attn_scores"), (1, 0, "attn_scores")}),
    "ffn_moe_down-1": ("qwen3moe", "MUL_MAT_ID", {(0, 1, "moe_expert_out"), (1, 1, "moe_expert_out")}),
    "Vcur-0": ("qwen2", "ADD", {(0, 0, "qkv_bias"), (1, 0, "qkv_bias")}),
}


@pytest.mark.contract("CAPTURE-LLAMACPP-1")
@pytest.mark.parametrize("name", FAULTS)
def test_one_changed_node_is_one_divergence(name: str, ours: Callable[[str], Path], tmp_path: Path) -> None:
    family, operation, expected = FAULTS[name]

    def double(node: Any) -> Any:
        return replace(node, values=2 * node.values) if (node.name, node.operation) == (name, operation) else node

    write(family, tmp_path / "theirs", double)
    report = aprgraph.diff(ours(family), tmp_path / "theirs", profile="same-graph-f32")
    diverged = {row.key for row in report.rows if row.classification.value not in ("IDENTICAL", "NOISE", "UNMEASURED")}
    assert diverged == expected


@pytest.mark.parametrize(("operation", "name", "sources", "place"), [
    ("GET_ROWS", "embd", ("token_embd.weight", "inp_tokens"), (0, "embedding")),
    ("MUL_MAT", "result_output", ("token_embd.weight", "result_norm"), (None, "lm_head")),
    ("MUL_MAT", "node_140", ("token_embd.weight", "result_norm"), (None, "lm_head_raw")),
    ("SCALE", "result_output", ("node_140",), (None, "lm_head")),
    ("SCALE", "embd", ("node_0",), (0, "embedding")),
    ("SCALE", "kq_scaled_2-3", ("kq_tanh-3",), (3, "attn_scores")),
    ("ADD", "ffn_moe_probs-3", ("ffn_moe_logits-3", "blk.3.ffn_gate_inp.bias"), (3, "moe_router_logits")),
    ("ADD_ID", "ffn_moe_up_biased-3", ("ffn_moe_up-3", "blk.3.ffn_up_exps.bias", "ffn_moe_topk-3"), (3, "moe_expert_up")),
    ("RESHAPE", "ffn_moe_weights_softmax-3", ("node_9",), (3, "moe_router")),
    ("SQR", "ffn_sqr(relu)-3", ("ffn_relu-3",), (3, "ffn_swigl")),
    ("MUL_MAT", "node_70", ("blk.12.attn_output.weight", "kqv_out-12"), (12, "attn_out")),
    ("ADD", "ffn_out-3", ("ffn_out-3", "blk.3.ffn_down.bias"), (3, "ffn_out")),
    ("ADD", "Qcur-3", ("Qcur-3", "blk.3.attn_q.bias"), (3, "q_bias")),
    ("ADD", "ffn_out-3", ("ffn_moe_out-3", "ffn_shexp_out-3"), (3, "moe_ffn_out")),
    ("ADD", "ffn_moe_out_merged-3", ("ffn_moe_out-3", "ffn_moe_shexp-3"), (3, "moe_ffn_out")),
    ("MUL", "ffn_moe_weighted-3", ("node_9", "ffn_moe_weights-3"), (3, "moe_expert_in")),
    ("MUL", "ffn_moe_weighted-3", ("ffn_moe_down-3", "ffn_moe_weights-3"), None),
    ("RMS_NORM", "Qcur_normed-3", ("Qcur-3",), (3, "q_norm")),
    ("MUL_MAT", "q_nope_absorbed-3", ("blk.3.attn_k_b.weight", "q_nope_perm-3"), (3, "q_absorbed")),
    ("MUL_MAT", "kqv_mla-3", ("blk.3.attn_v_b.weight", "kqv-3"), None),
    ("ADD", "ffn_moe_probs_biased-3", ("ffn_moe_probs-3", "blk.3.exp_probs_b.bias"), (3, "moe_router_scores")),
    ("ADD", "ffn_out-3", ("a", "b"), None),
    ("MUL", "ffn_shexp_out-3", ("ffn_shexp-3", "ffn_shexp_gate-3"), None),
    ("MUL_MAT", "ffn_shexp_gate_inp-3", ("blk.3.ffn_gate_inp_shexp.weight", "ffn_norm-3"), None),
    ("SCALE", "Qcur-3", ("Qcur-3",), None),
    ("RESHAPE", "Qcur-3", ("Qcur-3",), None),
    ("SOFT_MAX", "ffn_moe_probs-3", ("ffn_moe_logits-3",), None),
])  # fmt: skip
def test_which_node_is_which_stage(operation: str, name: str, sources: tuple[str, ...], place: Any) -> None:
    assert example.find_place(operation, name, sources) == place


@pytest.mark.parametrize(("types", "arithmetic"), [
    ({"f32"}, "float32"), ({"f32", "f16"}, "float16"), ({"f32", "bf16", "f16"}, "bfloat16"), ({"f32", "q4_K", "f16"}, "q8-activations"),
])  # fmt: skip
def test_what_was_computed_in(types: set[str], arithmetic: str) -> None:
    assert example.describe_arithmetic(types) == arithmetic


@pytest.mark.parametrize(("family", "block_format"), [("llama", "F32"), ("qwen3moe", "F32"), ("qwen2", "Q8_0"), ("gemma3", "Q8_0")])
def test_the_script_itself(
    family: str, block_format: str, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not here; install with `pip install llama-cpp-python`")
    path = tiny_model(family=family, format=block_format, layers=2)
    options = ["--tokens", ",".join(map(str, TOKENS)), "-n", "3"]
    monkeypatch.setattr(sys, "argv", ["llama_cpp_trace.py", str(path), *options, "-o", str(tmp_path / "theirs")])
    example.main()
    compiled = aprgraph.load(path).compile("reference", tmp_path / "tiny.aprg")
    compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "ours", max_tokens=3, steps="0..3")
    report = aprgraph.diff(tmp_path / "ours", tmp_path / "theirs")
    assert report.profile == ("cross-engine-q8act" if block_format == "Q8_0" else "same-graph-f32")
    assert report.exit_code == 0, report.verdict
    assert {row.key[2] for row in report.rows if row.classification.value == "UNMEASURED"} <= {"ffn_silu"}
    info = Trace.open(tmp_path / "theirs").info
    assert info is not None
    assert info.model == {"name": path.name, "fingerprint": aprgraph.load(path).model.file.fingerprint()}
    assert info.extra["arithmetic"] == ("float32" if block_format == "F32" else "q8-activations")
    assert info.extra["weights"] == ("float" if block_format == "F32" else "quantised")
    # A text may end before its third token, which makes one step less.
    assert {entry.step for entry in Trace.open(tmp_path / "theirs").entries} == set(range(len(info.extra["generated"])))
    assert len(info.extra["generated"]) == 3 or family == "gemma3"


def test_queries_that_are_turned_whole_have_the_elements_that_rope_turns_at_the_end_of_each_head() -> None:
    """Latent attention over heads: what is recorded is the whole head."""
    q, k = np.arange(2 * 3 * 5, dtype=np.float32).reshape(1, 2, 3, 5), np.zeros((1, 2, 1, 2), np.float32)
    nodes = [example.Node("ROPE", "Qcur-0", ("q-0", "inp_pos"), q), example.Node("ROPE", "k_pe-0", ("k_pe-0", "inp_pos"), k)]
    stages = example.assemble(nodes, 2, 2)
    assert set(stages) == {(0, "q_pe"), (0, "k_pe")}
    assert np.array_equal(stages[0, "q_pe"], q[0, :, :, 3:].reshape(2, 6))

"""The whole road against independent numbers: every stage of every golden model, and of SmolLM2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.stages import execution_key
from tests.support.compiled import compiled
from tests.support.golden import (
    TOLERANCE,
    GoldenModel,
    gemma3_golden,
    golden_models,
    llama_cpp_embeddings,
    llama_cpp_logits,
    nmse,
    ops_of_golden,
    smollm2_golden,
    whole_by_reference_ops_by_others,
)
from tests.support.models import require_gemma3, require_smollm2

#: Samples hold a residual stream's outliers, hundreds of times its RMS, more often than the tensor does.
SAMPLE_TOLERANCE = 1e-9
#: How far llama.cpp's logits in float32 may be from ours, NMSE over all positions.
LLAMA_CPP_TOLERANCES = {
    "deepseek2-lite-f32": TOLERANCE,
    "deepseek3-f32": TOLERANCE,
    "glm4-f32": TOLERANCE,
    "glm4moe-f32": TOLERANCE,
    "gpt-oss-f32": TOLERANCE,
    "granite-f32": TOLERANCE,
    "olmo2-f32": TOLERANCE,
    "olmo3-f32": TOLERANCE,
    **dict.fromkeys(("mistral3-f32", "smollm3-f32", "command-r-f32", "cohere2-f32", "seed-oss-f32", "ernie4-5-f32"), TOLERANCE),
    **dict.fromkeys(
        (
            "hunyuan-dense-f32",
            "hunyuan-moe-f32",
            "apertus-f32",
            "stablelm-f32",
            "stablelm-f32-parallel",
            "nemotron-f32",
            "ernie4-5-moe-f32",
            "arcee-f32",
            "llama4-f32-wide",
            "olmoe-f32",
            "granitemoe-f32",
            "minimax-m2-f32",
            "dots1-f32",
            "afmoe-f32",
            "exaone-moe-f32",
            "bitnet-f32",
            "mimo2-f32",
            "deci-f32",
            "chatglm-f32",
            "qwen3vl-f32",
            "qwen3vlmoe-f32",
            "exaone-f32",
            "falcon-h1-f32",
            "falcon-h1-f32-norm",
            "nemotron-h-f32",
            "nemotron-h-moe-f32",
            "nemotron-h-moe-f32-latent",
            "bailingmoe2-f32",
            "deepseek-f32",
            "minicpm-f32",
            "minicpm3-f32",
            "olmo-f32",
            "dbrx-f32",
            "internlm2-f32",
            "mamba-f32",
            "falcon-mamba-f32",
            "jamba-f32",
            "jamba-f32-dense",
            "jais2-f32",
        ),
        TOLERANCE,
    ),
    # llama.cpp looks GELU up in a table of float16.
    **dict.fromkeys(
        (
            "gptneox-f32",
            "falcon-f32",
            "starcoder-f32",
            "gemma-f32",
            "gemma2-f32",
            "starcoder2-f32",
            "phi2-f32",
            "gpt2-f32",
            "gemma4-f32",
            "gemma4-f32-experts",
        ),
        1e-7,
    ),
    # llama.cpp rounds activations to 8 bits before quantised weights, and the bounds of YaRN to whole pairs, which alone makes 3e-7.
    "gpt-oss-mxfp4": 1e-3,
}

#: Of the families of the others, tests of generation run every stage in parts and step by step.
_OTHERS = [golden for golden in golden_models() if golden.path.parent.name == "families" and (None, "lm_head") in golden.stages]
_WITH_LOGITS = [golden for golden in golden_models() if golden.name in LLAMA_CPP_TOLERANCES]
_EMBEDDINGS = [golden for golden in golden_models() if (None, "pooled") in golden.stages]


@pytest.mark.contract("FAMILY-NUMBERS-1")
@pytest.mark.each_choice(of=whole_by_reference_ops_by_others)
@pytest.mark.parametrize("golden", golden_models(), ids=lambda golden: golden.name)
@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_every_stage_of_a_golden_model(golden: GoldenModel, target: str, tmp_path: Path) -> None:
    model = compiled(golden.path, target)
    layers = model.model.family.layers
    trace = model.run("all", f"0..{layers}", tokens=golden.tokens, directory=tmp_path / "trace")
    assert {(entry.layer, entry.stage) for entry in trace.entries} == set(golden.stages)
    for entry in trace.entries:
        actual, expected = trace.load(entry), golden.stages[entry.layer, entry.stage]
        assert actual.shape == expected.shape, entry.label
        error = nmse(actual, expected)
        assert error <= golden.tolerance, f"{entry.label}: NMSE {error:.1e}"
    if (None, "lm_head") in golden.stages:
        assert trace.tensor("lm_head").argmax() == golden.stages[None, "lm_head"].argmax()


@pytest.mark.contract("STEPS-CHUNK-1", "STEPS-DECODE-1")
@pytest.mark.each_choice(of=lambda golden: ops_of_golden(golden.path))
@pytest.mark.parametrize("golden", _OTHERS, ids=lambda golden: golden.name)
def test_parts_of_a_prompt_and_single_tokens_give_the_bits_of_a_prefill(golden: GoldenModel, tmp_path: Path) -> None:
    """At every position, in every family: what turns, masks or looks up by position does it by where the position is."""
    model, start = compiled(golden.path), 4
    whole = model.logits(golden.tokens, positions="all")
    parts = model.run("lm_head", tokens=golden.tokens, directory=tmp_path / "parts", positions="all", prefill_chunk=start)
    assert parts.tensor("lm_head").tobytes() == whole.tobytes()
    steps = model.run("lm_head", tokens=golden.tokens[:start], directory=tmp_path / "steps", max_tokens=3, steps="0..3")
    assert steps.info is not None
    whole = model.logits([*golden.tokens[:start], *steps.info.extra["generated"][:2]], positions="all")
    for step in range(3):
        assert steps.tensor("lm_head", None, step).tobytes() == whole[start - 1 + step].tobytes(), f"step {step}"


@pytest.mark.contract("EMBEDDING-NUMBERS-1")
@pytest.mark.parametrize("golden", _EMBEDDINGS, ids=lambda golden: golden.name)
def test_embeddings_against_llama_cpp(golden: GoldenModel) -> None:
    """llama.cpp looks GELU up in a table of float16, and leaves the length to its caller."""
    expected, model = llama_cpp_embeddings(), compiled(golden.path)
    graph = aprgraph.load(golden.path).graph
    limit = 1e-7 if graph.with_op("gelu") or graph.with_op("gelu_erf") else TOLERANCE
    theirs = expected[golden.name].astype(np.float64)
    assert nmse(model.embedding(tokens=golden.tokens), theirs / np.linalg.norm(theirs)) <= limit
    if (positions := expected.get(f"{golden.name}/positions")) is not None:
        last = max((key for key, values in golden.stages.items() if values.shape == positions.shape), key=lambda key: execution_key(*key))
        assert nmse(golden.stages[last], positions) <= limit


@pytest.mark.contract("STEPS-CHUNK-1")
def test_parts_of_a_text_give_the_bits_of_the_whole_where_the_last_position_is_the_embedding(tmp_path: Path) -> None:
    golden = next(golden for golden in _EMBEDDINGS if golden.name == "qwen3-embedding-f32")
    model = compiled(golden.path)
    whole, parts = (
        model.run("final_norm,pooled_normed", tokens=golden.tokens, directory=tmp_path / f"{chunk}", prefill_chunk=chunk)
        for chunk in (None, 4)
    )
    for stage in ("final_norm", "pooled_normed"):
        assert parts.tensor(stage).tobytes() == whole.tensor(stage).tobytes()


@pytest.mark.each_choice(of=whole_by_reference_ops_by_others)
@pytest.mark.parametrize("golden", _WITH_LOGITS, ids=lambda golden: golden.name)
@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_logits_of_all_positions_against_llama_cpp(golden: GoldenModel, target: str, tmp_path: Path) -> None:
    name = golden.name
    trace = compiled(golden.path, target).run("lm_head", tokens=golden.tokens, directory=tmp_path / "trace", positions="all")
    expected = llama_cpp_logits()[name]
    assert trace.tensor("lm_head").shape == expected.shape
    assert nmse(trace.tensor("lm_head"), expected) <= LLAMA_CPP_TOLERANCES[name]


@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_logits_of_gemma3n_against_llama_cpp(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp divides the variance of gates by one less than their number, and looks GELU up in a table of float16."""
    golden = next(golden for golden in golden_models() if golden.name == "gemma3n-f32-wide")
    expected = llama_cpp_logits()[golden.name]
    monkeypatch.setattr(FAMILIES["gemma3n"], "of_sample", True)
    model = aprgraph.load(golden.path)
    assert [node.attrs["sample"] for node in model.graph.with_op("gaussian_top_k")] == [True]
    trace = model.compile(target, tmp_path / "model.aprg").run(
        "lm_head", tokens=golden.tokens, directory=tmp_path / "trace", positions="all"
    )
    assert nmse(trace.tensor("lm_head"), expected) <= 1e-8
    monkeypatch.undo()
    trace = compiled(golden.path, target).run("lm_head", tokens=golden.tokens, directory=tmp_path / "original", positions="all")
    assert 1e-6 < nmse(trace.tensor("lm_head"), expected) < 1e-3


def test_the_two_targets_agree(tiny: CompiledModel, reference: CompiledModel, tmp_path: Path) -> None:
    """A model that no golden file covers: biases, three layers, two formats in one projection, every position's logits."""
    tokens, layers = [5, 200, 17, 17, 0, 287, 3], "0..3"
    actual = tiny.run("all", layers, tokens=tokens, directory=tmp_path / "llvm", positions="all")
    expected = reference.run("all", layers, tokens=tokens, directory=tmp_path / "reference", positions="all")
    assert [entry.key for entry in actual.entries] == [entry.key for entry in expected.entries]
    for entry in expected.entries:
        error = nmse(actual.load(actual.get(entry.stage, entry.layer)), expected.load(entry))
        assert error <= TOLERANCE, f"{entry.label}: NMSE {error:.1e}"
    assert actual.tensor("lm_head").shape == (len(tokens), 291)
    assert (actual.tensor("lm_head").argmax(axis=1) == expected.tensor("lm_head").argmax(axis=1)).all()


def test_overrides_change_the_numbers_as_the_reference_says(model_path: Path, tmp_path: Path) -> None:
    """Another RoPE base: the artifact keeps it, and exactly the stages behind RoPE differ."""
    import aprgraph

    overrides = {"llama.rope.freq_base": 500.0}
    base = compiled(model_path, "reference").run("all", tokens=[9, 8, 7], directory=tmp_path / "base")
    model = aprgraph.load(model_path, overrides).compile("reference", tmp_path / "changed.aprg")
    changed = aprgraph.open_artifact(model.artifact.directory).run("all", tokens=[9, 8, 7], directory=tmp_path / "changed")
    same = [entry.stage for entry in base.entries if np.array_equal(base.load(entry), changed.tensor(entry.stage, entry.layer))]
    assert same == ["embedding", "attn_norm", "qkv_matmul", "qkv_bias"]
    assert changed.info is not None
    assert changed.info.model["overrides"] == overrides


def test_every_stage_of_smollm2(tmp_path: Path) -> None:
    """Both targets against samples of the golden numbers, and every element of one against the other."""
    model, golden = require_smollm2(), smollm2_golden()
    actual, exact = (
        compiled(model, target).run("all", "0..30", tokens=golden.tokens, directory=tmp_path / target) for target in ("llvm", "reference")
    )
    assert {entry.key for entry in actual.entries} == {(0, layer, stage) for layer, stage in golden.samples}
    assert [entry.key for entry in actual.entries] == [entry.key for entry in exact.entries]
    for entry in exact.entries:
        sample, expected, found = golden.samples[entry.layer, entry.stage], exact.load(entry), actual.tensor(entry.stage, entry.layer)
        assert sample.nmse(expected) <= TOLERANCE, entry.label
        assert sample.rms_error(expected) <= TOLERANCE**0.5, entry.label
        assert sample.nmse(found) <= SAMPLE_TOLERANCE, entry.label
        assert nmse(found, expected) <= TOLERANCE, entry.label
    logits = actual.tensor("lm_head")
    assert nmse(logits, golden.logits) <= TOLERANCE
    assert logits.argmax() == exact.tensor("lm_head").argmax() == golden.logits.argmax()


def test_every_stage_of_gemma3(tmp_path: Path) -> None:
    """A second real model: mixed K-quants, sliding windows, a vocabulary of 262,144."""
    path, golden = require_gemma3(), gemma3_golden()
    actual, exact = (
        compiled(path, target).run("all", "0..18", tokens=golden.tokens, directory=tmp_path / target) for target in ("llvm", "reference")
    )
    assert {entry.key for entry in actual.entries} == {(0, layer, stage) for layer, stage in golden.samples}
    for entry in exact.entries:
        sample, expected, found = golden.samples[entry.layer, entry.stage], exact.load(entry), actual.tensor(entry.stage, entry.layer)
        assert sample.nmse(expected) <= SAMPLE_TOLERANCE, entry.label
        assert sample.nmse(found) <= SAMPLE_TOLERANCE, entry.label
        assert sample.rms_error(expected) <= TOLERANCE**0.5, entry.label
        assert nmse(found, expected) <= TOLERANCE, entry.label
    assert actual.tensor("lm_head").argmax() == exact.tensor("lm_head").argmax() == golden.best


def test_smollm2_from_text() -> None:
    """The tokenizer's ids for the default prompt are those of the golden numbers, and so is the next token."""
    golden, model = smollm2_golden(), compiled(require_smollm2())
    assert tuple(model.encode("What is 2+2?")) == golden.tokens
    assert int(model.logits(golden.tokens).argmax()) == int(golden.logits.argmax())

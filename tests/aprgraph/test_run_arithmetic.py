"""`aprgraph run --arithmetic`: a model computed as an engine rounds it, and what its manifest says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, run_cli
from tests.support.replayed import replayed_errors

#: Rows of both: each kind of block, and what is not rounded.
FORMATS = {"ffn_down": "Q8_0", "attn_v": "Q4_K", "attn_output": "F16", "output": "BF16", "ffn_up": "Q5_1", "attn_q": "F32"}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    formats = {f"blk.{layer}.{name}.weight": fmt for name, fmt in FORMATS.items() for layer in (0, 1)}
    return tiny_model(format="Q4_1", formats={**formats, "output.weight": "BF16"}, hidden=256, ffn=64, vocabulary=288)


@pytest.mark.parametrize("flash", ["on", "off"])
def test_a_run_is_what_its_arithmetic_makes_of_it(model: Path, tmp_path: Path, flash: str) -> None:
    """Each stage, of the prompt and of decoded tokens; and another arithmetic explains no product of quantised weights."""
    arithmetic = f"ggml-avx2,cache=f16,flash={flash}"
    run_cli(
        "run", model, "--target", "reference", "--arithmetic", arithmetic, "--tokens", "5,9,17,2,5", "--taps", "all",
        "--layers", "0..2", "-n", 3, "--steps", "0..3", "-o", tmp_path / "trace",
    )  # fmt: skip
    trace = Trace.open(tmp_path / "trace")
    assert trace.info is not None
    assert trace.info.extra["engine_arithmetic"] == arithmetic
    assert trace.info.extra["arithmetic"] == "q8-activations"
    assert ("attn_scores" in {entry.stage for entry in trace.entries}) == (flash == "off")
    loaded = aprgraph.load(model).model
    assert max(replayed_errors(trace, loaded, arithmetic).values()) <= 1e-12
    exact = replayed_errors(trace, loaded, "plain")
    assert {step for step, _, _ in exact} == {0, 1, 2}
    for stage, least in (("qkv_matmul", 1e-6), ("attn_out", 1e-9), ("ffn_up", 1e-6), ("ffn_out", 1e-6), ("lm_head", 1e-7)):
        assert min(error for (_, _, name), error in exact.items() if name == stage) >= least, stage


def test_python_has_it_too(model: Path, tmp_path: Path) -> None:
    compiled = aprgraph.load(model).compile("reference", tmp_path / "tiny.aprg")
    plain, rounded = (
        compiled.run("lm_head", tokens=[5, 9], directory=tmp_path / name, arithmetic=name) for name in ("plain", "ggml-scalar")
    )
    assert plain.info is not None
    assert not {"arithmetic", "engine_arithmetic"} & set(plain.info.extra)
    assert rounded.info is not None
    assert rounded.info.extra["engine_arithmetic"] == "ggml-scalar,cache=f16,flash=on"
    report = aprgraph.diff(plain, rounded)
    assert report.profile == "cross-engine-q8k"


def test_targets_without_the_kernels(model: Path, tiny: CompiledModel, tmp_path: Path) -> None:
    wanted = "--arithmetic ggml-avx2: the target llvm has no kernels that round so; expected --target reference"
    for source in (model, tiny.artifact.directory):
        assert fails("run", source, "--tokens", "1,2", "--arithmetic", "ggml-avx2", "--taps", "lm_head", "-o", tmp_path / "t") == wanted
    assert not (tmp_path / "t").exists()
    message = fails("run", model, "--tokens", "1,2", "--arithmetic", "ggml", "--target", "reference")
    assert message.startswith("arithmetic 'ggml': there is no 'ggml'; expected one of plain, ggml-avx2, ")


def test_an_arithmetic_that_was_only_read_says_so(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(format="Q8_0", hidden=64, ffn=64, head_size=32, heads=2, kv_heads=1)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "tiny.aprg")
    trace = compiled.run("lm_head", tokens=[5, 9], directory=tmp_path / "t", arithmetic="ggml-cuda")
    assert trace.info is not None
    assert trace.info.extra["notes"] == ["the arithmetic ggml-cuda was read in the engine's source, and not tried against it"]

"""`aprgraph compile` and `run --target cuda --arithmetic`, whole, on an emulated GPU: every stage is what the arithmetic makes of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import error_of
from tests.support.cuda_emulator import host_compiler
from tests.support.cuda_runs import command, run_emulated
from tests.support.replayed import replayed_errors

#: Formats whose rounding is known of either arithmetic.
FORMATS = {"ffn_down": "Q8_0", "attn_v": "Q4_K", "attn_output": "Q6_K", "ffn_up": "Q5_0", "attn_q": "F32"}


@pytest.mark.sweep
@pytest.mark.contract("ARITHMETIC-COMPILED-1")
@pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")
@pytest.mark.parametrize("arithmetic", ["ggml-cuda", "ggml-avx2"])
def test_a_run_on_a_gpu_is_what_its_arithmetic_makes_of_it(tiny_model: Callable[..., Path], tmp_path: Path, arithmetic: str) -> None:
    formats = {f"blk.{layer}.{name}.weight": fmt for name, fmt in FORMATS.items() for layer in (0, 1)}
    path = tiny_model(format="Q4_0", formats=formats, hidden=256, ffn=64, vocabulary=288)
    run = ("run", "m.aprg", "--taps", "all", "--layers", "0..2")
    compiled, ran, audited, long = run_emulated(
        [
            command("compile", path, "--target", "cuda", "--arithmetic", arithmetic, "-o", "m.aprg"),
            command(*run, "--tokens", "5,9,17,2,5", "-n", 3, "--steps", "0..3", "-o", "gpu"),
            command("audit", "gpu", "--model", path),
            command(*run, "--tokens", "1,2,3,4,5,6,7,8,9", "-o", "long"),
        ],
        tmp_path,
    )
    assert (compiled.code, ran.code, audited.code) == (0, 0, 0), (compiled, ran, audited)
    trace = Trace.open(tmp_path / "gpu")
    assert {entry.step for entry in trace.entries} == {0, 1, 2}
    assert max(replayed_errors(trace, aprgraph.load(path).model, arithmetic).values()) <= 3e-12
    if arithmetic == "ggml-cuda":
        assert "known of passes of up to 8 positions, and this run has one of 9; give --prefill-chunk 8" in error_of(long)
    else:
        assert long.code == 0

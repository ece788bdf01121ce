"""Whole models on an ARM board, which QEMU is here: `compile --cpu aarch64`, and `run --rpc`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.aprgraph.test_family_formats import LAYERS, MODELS, all_formats
from tests.support.aarch64 import PROCESSORS, SAME_BITS, board, needs_board, needs_same_bits
from tests.support.cli import fails, files_under, run_cli
from tests.support.compiled import SHARED

pytestmark = needs_board

#: A model that takes no time to compile, and every family with every block format.
OPTIONS: dict[str, dict[str, Any]] = {
    "shared": SHARED,
    **{name: {"layers": LAYERS, "formats": all_formats(), "hidden": 256, "ffn": 256, **options} for name, options in MODELS.items()},
}
#: Of each level what it has of its own: that with dot products multiplies whole numbers, which rounded activations are.
LEVELS = {"aarch64": "plain", "aarch64-dotprod": "ggml-avx2"}
TOKENS = "5,200,17,5,44,0,287"


@pytest.fixture(scope="module")
def boards() -> Iterator[Callable[[str], str]]:
    """The address of a board that has a level."""
    with ExitStack() as stack:
        yield cache(lambda level: stack.enter_context(board(PROCESSORS[level])))


@needs_same_bits
@pytest.mark.contract("DET-ARM-1")
@pytest.mark.each_choice(of=lambda name, level: {level})
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_trace_is_that_of_x86_64_v3(
    name: str, level: str, boards: Callable[[str], str], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Every tensor to the bit, of a prompt, and of one model in parts and token by token; and its manifest but for the name of the CPU."""
    model, steps = tiny_model(**OPTIONS[name]), ("-n", 3, "--steps", "0..3", "--prefill-chunk", 3) if name == "shared" else ()
    found = []
    for cpu, where in ((SAME_BITS.name, ()), (level, ("--rpc", boards(level)))):
        compiled = run_cli("compile", model, "--cpu", cpu, "--arithmetic", LEVELS[level], "-o", tmp_path / "m.aprg")
        assert compiled.code == 0, compiled.err
        place = tmp_path / cpu
        result = run_cli("run", tmp_path / "m.aprg", "--tokens", TOKENS, "--taps", "all", "--layers", "all", *steps, *where, "-o", place)
        assert result.code == 0, result.err
        files = files_under(place)
        found.append({**files, "trace.json": files["trace.json"].replace(f"llvm {cpu}".encode(), b"llvm")})
    here, there = found
    assert here.keys() == there.keys()
    assert [file for file in here if here[file] != there[file]] == []


def test_such_an_artifact_runs_there_alone(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli("compile", tiny_model(**SHARED), "--cpu", "aarch64", "-o", "m.aprg").code == 0
    assert "target: llvm aarch64\n" in run_cli("inspect", "m.aprg").out
    assert fails("run", "m.aprg", "--tokens", "1") == (
        "m.aprg: built for aarch64, but this machine is x86_64; run it on such a machine with --rpc HOST:PORT, or compile it here again"
    )

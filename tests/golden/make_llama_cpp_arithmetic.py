"""Writes llama_cpp_arithmetic.npz: the stages of a prompt, and of one more token, that llama.cpp computes as its users run it.

    python -m tests.golden.make_llama_cpp_arithmetic haswell LIBRARIES
    python -m tests.golden.make_llama_cpp_arithmetic x64 LIBRARIES

in the repository's root. Needs llama-cpp-python. LIBRARIES is a folder with libllama and ggml's libraries; of the CPU's backends it has that of this level
alone. Version and date are in README.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aprgraph import Trace
from tests.golden.make_llama_cpp_recordings import load_example
from tests.support.tiny import write_tiny_model

STAGES = Path(__file__).parent / "llama_cpp_arithmetic.npz"
TOKENS, NEXT = (17, 3, 88, 3, 0, 200, 9), 29
#: The name of an arithmetic by the level of the CPU.
LEVELS = {"haswell": "ggml-avx2", "x64": "ggml-scalar"}
#: Rows of 256 elements in every kind of block, and what is not quantised.
_MIXED = {
    "token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "Q4_K", "blk.0.attn_k.weight": "Q5_1", "blk.0.attn_v.weight": "Q6_K",
    "blk.0.attn_output.weight": "Q4_1", "blk.0.ffn_gate.weight": "F32", "blk.0.ffn_up.weight": "BF16", "blk.0.ffn_down.weight": "F16",
}  # fmt: skip
_SMALL: dict[str, Any] = {"layers": 1, "vocabulary": 272, "hidden": 64, "ffn": 64, "heads": 2, "kv_heads": 1}
#: Options of ``write_tiny_model``.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**_SMALL, "family": "llama", "hidden": 256, "formats": _MIXED, "format": "Q8_0", "tied": True},
    "gemma3": {**_SMALL, "family": "gemma3", "format": "Q4_0", "sliding_window": 3},
    "qwen3moe": {
        **_SMALL, "family": "qwen3moe", "format": "Q5_0", "experts": 4, "experts_used": 2, "expert_ffn": 32,
        "formats": {"blk.0.ffn_gate_exps.weight": "Q5_1", "blk.0.ffn_down_exps.weight": "Q4_1", "blk.0.ffn_gate_inp.weight": "F32"},
    },
}  # fmt: skip


class Run(NamedTuple):
    """A model, the level of the CPU, and what the user chose."""

    model: str
    level: str
    cache: str
    flash: str

    @property
    def key(self) -> str:
        """Its name in the file."""
        return "-".join(self)

    @property
    def arithmetic(self) -> str:
        """What it computes in."""
        return f"{LEVELS[self.level]},cache={self.cache},flash={self.flash}"


RUNS = (
    Run("llama", "haswell", "f16", "on"),
    Run("llama", "haswell", "f16", "off"),
    Run("llama", "x64", "f16", "on"),
    Run("gemma3", "haswell", "f16", "on"),
    Run("gemma3", "haswell", "f32", "off"),
    Run("qwen3moe", "haswell", "f16", "on"),
)


def write_model(run: Run, path: Path) -> Path:
    """The model of a run; the same bytes each time."""
    return write_tiny_model(path, **MODELS[run.model])


def arrays_of(run: Run, example: Any, libraries: Path) -> Iterator[tuple[str, Any]]:
    """The stages of a run by their names in a trace."""
    with tempfile.TemporaryDirectory() as place:
        engine = example.Engine(
            write_model(run, Path(place) / "tiny.gguf"), kv=run.cache, threads=1, room=len(TOKENS) + 1, flash=run.flash == "on",
            libraries=libraries,
        )  # fmt: skip
        for step, tokens in enumerate((TOKENS, [NEXT])):
            start = step * len(TOKENS)
            for (layer, stage), values in example.assemble(engine.run(tokens, start), len(tokens), start + len(tokens)).items():
                yield f"step{step}." * (step > 0) + (stage if layer is None else f"layer{layer}.{stage}"), values


def llama_cpp_trace(run: Run, directory: Path) -> Trace:
    """What llama.cpp computed in a run, as a trace."""
    with np.load(STAGES) as arrays:
        stages: dict[Any, Any] = {key.removeprefix(f"{run.key}/"): arrays[key] for key in arrays if key.startswith(f"{run.key}/")}
    return Trace.write(directory, stages, tokens=TOKENS, generated=[NEXT], target="llama.cpp")


def main(level: str, libraries: Path) -> None:
    """Write the runs of one level beside those that are there: a process has one libllama."""
    kept: dict[str, Any] = {}
    if STAGES.exists():
        with np.load(STAGES) as arrays:
            names = {run.key for run in RUNS if run.level != level}
            kept = {key: arrays[key] for key in arrays if key.partition("/")[0] in names}
    example = load_example()
    for run in RUNS:
        if run.level == level:
            kept |= {f"{run.key}/{name}": values for name, values in arrays_of(run, example, libraries)}
    np.savez_compressed(STAGES, **kept)
    print(f"{STAGES.name}: {len(kept)} arrays, {STAGES.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

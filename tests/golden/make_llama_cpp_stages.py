"""Writes llama_cpp_stages.npz: the stages of a prompt that llama.cpp computes for tiny models of which nobody else is a witness.

    python -m tests.golden.make_llama_cpp_stages

in the repository's root. Needs llama-cpp-python; version and date are in README.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph import Trace
from tests.golden.make_llama_cpp_recordings import load_example
from tests.support.tiny import write_tiny_model

STAGES = Path(__file__).parent / "llama_cpp_stages.npz"
TOKENS = (17, 3, 88, 3, 0, 200)
_SIZES: dict[str, Any] = {"layers": 2, "vocabulary": 272, "hidden": 32, "ffn": 40, "heads": 2, "kv_heads": 1}
_NVFP4: dict[str, Any] = {"layers": 2, "vocabulary": 272, "hidden": 64, "format": "NVFP4", "formats": {"token_embd.weight": "F32"}}
#: Options of ``write_tiny_model``: models that are not causal (in gemma3 the prompt is longer than the window), and weights with scales.
MODELS: dict[str, dict[str, Any]] = {
    "llama-bidirectional": {"family": "llama", "causal": False, **_SIZES},
    "qwen2-bidirectional": {"family": "qwen2", "causal": False, **_SIZES},
    "gemma3-bidirectional": {"family": "gemma3", "causal": False, "sliding_window": 3, **_SIZES},
    "llama-nvfp4": {
        "family": "llama", "ffn": 128, **_NVFP4,
        "scales": {"blk.0.attn_q.scale": [0.37], "blk.0.attn_output.scale": [1.3], "blk.1.ffn_down.scale": [2.1], "output.scale": [0.6]},
    },
    "qwen3moe-nvfp4": {
        "family": "qwen3moe", "experts": 4, "expert_ffn": 64, **_NVFP4,
        "scales": {f"blk.{layer}.ffn_{part}_exps.scale": [0.3, 0.9, 1.4, 2.2] for layer in (0, 1) for part in ("gate", "up", "down")},
    },
}  # fmt: skip


def write_model(name: str, path: Path) -> Path:
    """One of the models; the same bytes each time."""
    return write_tiny_model(path, **MODELS[name])


def llama_cpp_trace(name: str, directory: Path, **about: Any) -> Trace:
    """What llama.cpp computed of one of the models, as a trace; ``about`` is for its manifest."""
    with np.load(STAGES) as arrays:
        stages: dict[Any, Any] = {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}
    return Trace.write(directory, stages, tokens=TOKENS, target="llama.cpp", **about)


def main() -> None:
    example = load_example()
    arrays: dict[str, Any] = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as place:
            engine = example.Engine(write_model(name, Path(place) / "tiny.gguf"), kv="f32", threads=1, room=len(TOKENS) + 1)
            stages = example.assemble(engine.run(TOKENS, 0), len(TOKENS), len(TOKENS))
        for (layer, stage), values in stages.items():
            arrays[f"{name}/{stage if layer is None else f'layer{layer}.{stage}'}"] = values
    np.savez_compressed(STAGES, **arrays)
    print(f"{STAGES.name}: {len(arrays)} arrays, {STAGES.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Writes llama_cpp_bidirectional.npz: the stages of a prompt that llama.cpp computes for tiny models that are not causal.

    python -m tests.golden.make_llama_cpp_bidirectional

in the repository's root. Needs llama-cpp-python; version and date are in README.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.make_llama_cpp_recordings import load_example
from tests.support.tiny import write_tiny_model

STAGES = Path(__file__).parent / "llama_cpp_bidirectional.npz"
TOKENS = (17, 3, 88, 3, 0, 200)
_SIZES: dict[str, Any] = {"layers": 2, "vocabulary": 272, "hidden": 32, "ffn": 40, "heads": 2, "kv_heads": 1, "causal": False}
#: Options of ``write_tiny_model`` by family; in gemma3 the prompt is longer than the window.
MODELS: dict[str, dict[str, Any]] = {"llama": _SIZES, "qwen2": _SIZES, "gemma3": _SIZES | {"sliding_window": 3}}


def write_model(family: str, path: Path) -> Path:
    """One of the models in F32; the same bytes each time."""
    return write_tiny_model(path, family=family, **MODELS[family])


def main() -> None:
    example = load_example()
    arrays: dict[str, Any] = {}
    for family in MODELS:
        with tempfile.TemporaryDirectory() as place:
            engine = example.Engine(write_model(family, Path(place) / "tiny.gguf"), kv="f32", threads=1, room=len(TOKENS) + 1)
            stages = example.assemble(engine.run(TOKENS, 0), len(TOKENS), len(TOKENS))
        for (layer, stage), values in stages.items():
            arrays[f"{family}/{stage if layer is None else f'layer{layer}.{stage}'}"] = values
    np.savez_compressed(STAGES, **arrays)
    print(f"{STAGES.name}: {len(arrays)} arrays, {STAGES.stat().st_size} bytes")


if __name__ == "__main__":
    main()

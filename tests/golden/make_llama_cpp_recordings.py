"""Writes llama_cpp_recordings.npz: the nodes that llama.cpp computes for tiny models, as examples/llama_cpp_trace.py gets them.

    python -m tests.golden.make_llama_cpp_recordings [families [NAME ...]] [--libraries DIR]

in the repository's root; with ``families`` those of the models in families/, in that folder, all or, beside what is there, of those names.
DIR is as in the example. Needs llama-cpp-python; versions and dates are in README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny import write_tiny_model

HERE = Path(__file__).parent
RECORDINGS = HERE / "llama_cpp_recordings.npz"
FAMILY_RECORDINGS = HERE / "families" / RECORDINGS.name
#: A prompt, and a token after it.
TOKENS, NEXT = (17, 3, 88, 3, 0), 29
_SIZES: dict[str, Any] = {"layers": 2, "vocabulary": 272, "hidden": 32, "ffn": 40, "heads": 2, "kv_heads": 1}
#: Options of ``write_tiny_model``; in gemma3 the prompt is longer than the window.
MODELS: dict[str, dict[str, Any]] = {
    "llama": _SIZES,
    "qwen2": _SIZES,
    "qwen2moe": _SIZES | {"experts": 3, "experts_used": 2, "expert_ffn": 12, "shared_ffn": 20},
    "qwen3": _SIZES,
    "qwen3moe": _SIZES | {"experts": 4, "experts_used": 2, "expert_ffn": 12},
    "gemma3": _SIZES | {"sliding_window": 3},
    "phi3": _SIZES | {"layers": 1},
}
#: Models of families/.
FAMILY_MODELS = (
    "olmo2-f32", "gemma2-f32", "granite-f32", "glm4-f32", "gpt-oss-f32", "deepseek3-f32", "deepseek2-lite-f32", "llama4-f32-wide",
)  # fmt: skip


def write_model(name: str, path: Path) -> Path:
    """One of the models in F32; the same bytes each time."""
    if name in FAMILY_MODELS:
        return Path(shutil.copyfile(FAMILY_RECORDINGS.parent / f"{name}.gguf", path))
    return write_tiny_model(path, family=name, **MODELS[name])


def load_example() -> Any:
    """examples/llama_cpp_trace.py as a module."""
    name = "llama_cpp_trace"
    spec = importlib.util.spec_from_file_location(name, HERE.parents[1] / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(models: Collection[str], recordings: Path, names: Collection[str], libraries: Path | None) -> None:
    """Write the nodes of those models; if there are ``names``, of these alone anew."""
    example = load_example()
    arrays: dict[str, Any] = {}
    described: dict[str, Any] = {}
    if names:
        with np.load(recordings) as there:
            described = {name: nodes for name, nodes in json.loads(str(there["nodes"])).items() if name not in names}
            arrays = {label: there[label] for label in there.files if label.partition("/")[0] in described}
    for name in names or models:
        with tempfile.TemporaryDirectory() as place:
            path = write_model(name, Path(place) / "tiny.gguf")
            engine = example.Engine(path, kv="f32", threads=1, room=len(TOKENS) + 1, libraries=libraries)
            passes = [engine.run(TOKENS, 0), engine.run([NEXT], len(TOKENS))]
        described[name] = [
            [{"operation": node.operation, "name": node.name, "sources": node.sources, "scale": node.scale} for node in nodes]
            for nodes in passes
        ]
        for step, nodes in enumerate(passes):
            for index, node in enumerate(nodes):
                arrays[f"{name}/{step}/{index}"] = node.values
                if node.mask is not None:
                    arrays[f"{name}/{step}/{index}/mask"] = node.mask
    np.savez_compressed(recordings, nodes=np.array(json.dumps(described)), **arrays)
    print(f"{recordings.name}: {len(arrays)} arrays, {recordings.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["families"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--libraries", type=Path)
    given = parser.parse_args()
    main(*((FAMILY_MODELS, FAMILY_RECORDINGS) if given.what else (MODELS, RECORDINGS)), given.names, given.libraries)

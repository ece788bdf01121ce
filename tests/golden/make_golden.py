"""Writes the golden numbers: tiny models with all stages of a prefill, and samples of two real models' stages.

    python -m tests.golden.make_golden [NAME ...] [SmolLM2-135M-Instruct.Q4_1.gguf] [gemma3-270m-q4_k_m.gguf]

in the repository's root: the tiny models of those names, and the samples of the real ones whose files are given; without arguments all
tiny models. An independent implementation computes them: Hugging Face transformers in float64 on weights that the gguf
package decodes. Needs torch, transformers, gguf and llama-cpp-python; versions and date are in README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

from tests.golden import tiny_llama, tiny_models
from tests.golden.stage_files import write_stages
from tests.golden.transformers_models import load
from tests.golden.transformers_recorder import Recorder

HERE = Path(__file__).parent
#: "What is 2+2?" (see smollm2_token_ids.json), and, after BOS, "The capital of France is".
REAL_TOKENS = {"smollm2": (1780, 314, 216, 34, 27, 34, 47), "gemma3": (2, 818, 5279, 529, 7001, 563)}
SAMPLES = 64


def make_tiny(names: Collection[str]) -> None:
    """Write the tiny models of those names, all if there are none, and all their stages as f32."""
    for index, spec in enumerate(tiny_llama.MODELS):
        if not names or spec.name in names:
            path = HERE / f"{spec.name}.gguf"
            tiny_llama.write_model(spec, path, seed=1000 + index)
            write_stages(path, load(path, spec.llama3_rope))
    for index, name in enumerate(tiny_models.MODELS):
        if not names or name in names:
            path = HERE / f"{name}.gguf"
            tiny_models.write_model(name, path, seed=2000 + index)
            write_stages(path, load(path))


def make_real(path: Path) -> None:
    """Of every stage of every layer: its RMS and 64 elements, the same ones in all layers; SmolLM2's logits whole, Gemma's best."""
    name = "gemma3" if "gemma" in path.name.lower() else "smollm2"
    stages = Recorder(load(path)).run(REAL_TOKENS[name])
    random = np.random.default_rng(2)
    arrays = {"tokens": np.array(REAL_TOKENS[name], np.int64), "best": np.array(stages[None, "lm_head"].argmax(), np.int64)}
    if name == "smollm2":
        arrays = {"tokens": arrays["tokens"], "lm_head": stages[None, "lm_head"].astype(np.float32)}
    for stage in dict.fromkeys(stage for _, stage in stages):
        values = [array.reshape(-1) for (_, name), array in stages.items() if name == stage]
        # Masked positions are zero everywhere and say nothing.
        candidates = np.flatnonzero(values[0])
        indices = np.sort(random.choice(candidates, SAMPLES, replace=False))
        arrays[f"{stage}/indices"] = indices.astype(np.int32)
        arrays[f"{stage}/values"] = np.stack([array[indices] for array in values]).astype(np.float32)
        arrays[f"{stage}/rms"] = np.array([np.sqrt(np.mean(np.square(array))) for array in values])
        arrays[f"{stage}/layers"] = np.array([-1 if layer is None else layer for layer, name in stages if name == stage], np.int32)
    target = HERE / f"{name}_stages.npz"
    np.savez_compressed(target, **arrays)
    print(f"{target.name}: {len(stages)} stages, {target.stat().st_size} bytes")


if __name__ == "__main__":
    real = [name for name in sys.argv[1:] if name.endswith(".gguf")]
    tiny = [name for name in sys.argv[1:] if name not in real]
    if tiny or not real:
        make_tiny(tiny)
    for name in real:
        make_real(Path(name))

"""Writes the golden numbers: tiny models with all stages of a prefill, and samples of SmolLM2's stages.

    python make_golden.py [SmolLM2-135M-Instruct.Q4_1.gguf]

An independent implementation computes them: Hugging Face transformers in float64 on weights that the gguf package
decodes. Needs torch, transformers, gguf and llama-cpp-python; versions and date are in README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tiny_llama import MODELS, write_model
from transformers_llama import Recorder, load

HERE = Path(__file__).parent
#: Repeated tokens, the first and the last of the vocabulary.
TOKENS = (17, 3, 88, 41, 3, 0, 95, 62, 29, 29, 54)
#: "What is 2+2?" (see smollm2_token_ids.json).
SMOLLM2_TOKENS = (1780, 314, 216, 34, 27, 34, 47)
SAMPLES = 64


def label(layer: int | None, stage: str) -> str:
    """The name of a stage in an npz file, which is also that of its file in a trace."""
    return stage if layer is None else f"layer-{layer}/{stage}"


def make_tiny() -> None:
    """Write each tiny model, and all its stages as f32."""
    for index, spec in enumerate(MODELS):
        path = HERE / f"{spec.name}.gguf"
        write_model(spec, path, seed=1000 + index)
        stages = Recorder(load(path, spec.llama3_rope)).run(TOKENS)
        arrays = {label(*key): values.astype(np.float32) for key, values in stages.items()}
        np.savez_compressed(path.with_suffix(".npz"), tokens=np.array(TOKENS, np.int64), **arrays)
        print(f"{spec.name}: {len(arrays)} stages, model {path.stat().st_size} bytes, numbers {path.with_suffix('.npz').stat().st_size}")


def make_smollm2(path: Path) -> None:
    """Of every stage of every layer: its RMS and 64 elements, the same ones in all layers; the logits whole."""
    stages = Recorder(load(path)).run(SMOLLM2_TOKENS)
    random = np.random.default_rng(2)
    arrays = {"tokens": np.array(SMOLLM2_TOKENS, np.int64), "lm_head": stages[None, "lm_head"].astype(np.float32)}
    for stage in dict.fromkeys(stage for _, stage in stages):
        values = [array.reshape(-1) for (_, name), array in stages.items() if name == stage]
        # Masked positions are zero everywhere and say nothing.
        candidates = np.flatnonzero(values[0])
        indices = np.sort(random.choice(candidates, SAMPLES, replace=False))
        arrays[f"{stage}/indices"] = indices.astype(np.int32)
        arrays[f"{stage}/values"] = np.stack([array[indices] for array in values]).astype(np.float32)
        arrays[f"{stage}/rms"] = np.array([np.sqrt(np.mean(np.square(array))) for array in values])
        arrays[f"{stage}/layers"] = np.array([-1 if layer is None else layer for layer, name in stages if name == stage], np.int32)
    target = HERE / "smollm2_stages.npz"
    np.savez_compressed(target, **arrays)
    print(f"{target.name}: {len(stages)} stages, {target.stat().st_size} bytes")


if __name__ == "__main__":
    make_tiny()
    if len(sys.argv) > 1:
        make_smollm2(Path(sys.argv[1]))

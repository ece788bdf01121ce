"""The prompt of all tiny models, and the npz files that hold every stage of a prefill on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.golden.transformers_models import LoadedModel
from tests.golden.transformers_recorder import Recorder

#: Repeated tokens, the first and the last of the vocabulary.
TOKENS = (17, 3, 88, 41, 3, 0, 95, 62, 29, 29, 54)


def label(layer: int | None, stage: str) -> str:
    """The name of a stage in an npz file, which is also that of its file in a trace."""
    return stage if layer is None else f"layer-{layer}/{stage}"


def write_stages(path: Path, loaded: LoadedModel) -> None:
    """Write the stages of ``loaded`` as f32 beside its GGUF file, which is ``path``."""
    stages = Recorder(loaded).run(TOKENS)
    arrays = {label(*key): values.astype(np.float32) for key, values in stages.items()}
    numbers = path.with_suffix(".npz")
    np.savez_compressed(numbers, tokens=np.array(TOKENS, np.int64), **arrays)
    print(f"{path.stem}: {len(arrays)} stages, model {path.stat().st_size} bytes, numbers {numbers.stat().st_size}")

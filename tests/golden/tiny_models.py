"""The tiny random models of the golden files beside llama's (tiny_llama.py): of each family, and of each way to scale RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny import write_tiny_model

#: F32, without a tokenizer. Sizes are no multiples of any tile, and heads are not hidden / heads wide where they need not be.
_SIZES: dict[str, Any] = {"hidden": 36, "ffn": 44, "heads": 3, "kv_heads": 1, "vocabulary": 96, "layers": 2, "tokenizer": False}
_MIXTURE = _SIZES | {"hidden": 24, "ffn": 24, "expert_ffn": 20}
#: Seven layers in what two take elsewhere.
_GEMMA3 = _SIZES | {"hidden": 20, "heads": 2, "head_size": 12, "ffn": 20, "layers": 7, "sliding_window": 5}
_PHI3 = _SIZES | {"hidden": 48, "ffn": 40}

#: Options of ``write_tiny_model``.
MODELS: dict[str, dict[str, Any]] = {
    "llama-f32-linear": _SIZES | {"head_size": 16, "rope_linear_factor": 4.0},
    "mixtral-f32": _SIZES | {"family": "llama", "experts": 4, "hidden": 32, "ffn": 36, "heads": 4, "kv_heads": 2, "head_size": 10},
    "qwen2-f32": _SIZES | {"family": "qwen2"},
    # The first two pairs are not scaled, those from the sixth on are.
    "qwen2-f32-yarn": _SIZES
    | {"family": "qwen2", "hidden": 48, "rope_yarn_factor": 4.0, "original_context": 1024, "context": 4096, "rope_base": 10000.0},
    "qwen2moe-f32": _MIXTURE | {"family": "qwen2moe", "shared_ffn": 28},
    "qwen3-f32": _SIZES | {"family": "qwen3", "head_size": 16},
    "qwen3moe-f32": _MIXTURE | {"family": "qwen3moe", "head_size": 12, "rope_base": None},
    "gemma3-f32": _GEMMA3 | {"family": "gemma3"},
    # As in the models from 4B on; the sixth layer is the one that is scaled.
    "gemma3-f32-linear": _GEMMA3 | {"family": "gemma3", "layers": 6, "head_size": 8, "rope_linear_factor": 8.0},
    "phi3-f32": _PHI3 | {"family": "phi3"},
    "phi3-f32-short-factors": _PHI3
    | {"family": "phi3", "rope_long_and_short": True, "original_context": 4096, "context": 131072},
    # As in Phi-4 mini, three quarters of each head are turned.
    "phi3-f32-long-factors": _PHI3
    | {"family": "phi3", "rope_long_and_short": True, "original_context": 8, "context": 64, "rope_dims": 12},
    # llama.cpp ignores a window here, transformers does not.
    "phi3-f32-window": _PHI3 | {"family": "phi3", "layers": 1, "sliding_window": 4},
}  # fmt: skip


def write_model(name: str, path: Path, seed: int) -> None:
    """Write one model. The same arguments give the same bytes under the same version of gguf."""
    write_tiny_model(path, **MODELS[name], seed=seed)

"""Writes families/llama_cpp_embeddings.npz: what llama.cpp gives for the embedding models there, to be compared with anybody's.

    python -m tests.golden.make_llama_cpp_embeddings

in the repository's root. By the name of a model f32 [Y], the embedding of the prompt that is beside its stages, pooled as the file
says, of any length; and by ``<name>/positions`` f32 [n, E], those of its positions without pooling, if no dense
layers come behind it. Needs llama-cpp-python, torch and
transformers; versions and date are in README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from tests.golden.family_models import FAMILIES, MODELS
from tests.golden.hf_to_gguf import F32
from tests.golden.stage_files import TOKENS

EMBEDDINGS = FAMILIES / "llama_cpp_embeddings.npz"
_F32 = 0
_NO_FLASH_ATTENTION = 0


def embedding_of(path: Path, tokens: Sequence[int], *, pooled: bool, size: int) -> F32:
    """The embedding of a prompt as f32 [``size``], or not ``pooled`` those of its positions, [n, ``size``]."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"{path}: llama.cpp cannot load it"
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    settings.flash_attn_type = _NO_FLASH_ATTENTION
    settings.type_k = settings.type_v = _F32
    settings.embeddings = True
    settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED if pooled else llama_cpp.LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(64, 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
    code = llama_cpp.llama_decode(context, batch)
    assert code == 0, f"{path}: llama_decode returned {code}"
    if pooled:
        found = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(context, 0), (size,)).copy()
    else:
        found = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings(context), (len(tokens), size)).copy()
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return found


def main() -> None:
    """Write those of all embedding models, and say how far transformers is from each."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    arrays: dict[str, F32] = {}
    for name in [name for name, spec in MODELS.items() if spec.pooling]:
        path = FAMILIES / f"{name}.gguf"
        with np.load(path.with_suffix(".npz")) as stages:
            last = stages["final_norm"] if "final_norm" in stages else stages[max(key for key in stages if key.endswith("/layer_out_norm"))]
            pooled = stages["pooled_down"] if "pooled_down" in stages else stages["pooled"]
        arrays[name] = embedding_of(path, TOKENS, pooled=True, size=pooled.size)
        pairs = [(arrays[name], pooled)]
        if not MODELS[name].dense:  # which llama.cpp applies to positions too
            arrays[f"{name}/positions"] = embedding_of(path, TOKENS, pooled=False, size=last.shape[1])
            pairs.append((arrays[f"{name}/positions"], last))
        errors = [f"{np.square(a - b).sum() / np.square(b).sum():.1e}" for a, b in pairs]
        print(f"{name}: NMSE {' and of positions '.join(errors)} to transformers")
    np.savez_compressed(EMBEDDINGS, **dict(sorted(arrays.items())))


if __name__ == "__main__":
    main()

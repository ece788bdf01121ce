"""Writes families/llama_cpp_logits.npz: the logits of llama.cpp for the models there, to be compared with anybody's.

    python -m tests.golden.make_llama_cpp_logits [NAME ...]

in the repository's root; of the models of those names, beside what is there of others, or of all. f32 [positions, vocabulary] by the name of a model, for the prompt that is beside its stages. Says of each how far
transformers is from it. Needs llama-cpp-python, torch and transformers; versions and date are in README.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from tests.golden.family_models import FAMILIES, make_model
from tests.golden.hf_to_gguf import F32
from tests.golden.stage_files import TOKENS
from tests.golden.transformers_recorder import Recorder

LOGITS = FAMILIES / "llama_cpp_logits.npz"
_F32 = 0
_NO_FLASH_ATTENTION = 0
#: llama.cpp gives norms of q and k to models of command-r, and windows to those of exaone4, by their number of layers, 64, and chunks
#: of 8,192 positions to those of llama4. The streams, sparse layers and shared keys of gemma3n are as in E2B and E4B, whatever a file says. Release 0.5.0 takes
#: no epsilon in qwen2vl, and weighs the experts of phimoe otherwise. It loads models of mamba
#: with twice as many columns as the hidden size has alone. It takes SiLU in bitnet.
_OTHERS = (
    "command-r-plus-f32",
    "exaone4-f32",
    "llama4-f32",
    "qwen35-f32-biases",
    "gemma3n-f32",
    "qwen2vl-f32",
    "gptneox-f32-sequential",
    "falcon-f32-groups",
    "baichuan-f32",
    "starcoder-f32-heads",
    "phimoe-f32",
    "falcon-mamba-f32-biases",
    "bitnet-f32-relu2",
)


def logits_of(path: Path, tokens: Sequence[int]) -> F32:
    """Logits of all positions of a prompt: an f32 KV cache, all of it in one pass."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"{path}: llama.cpp cannot load it"
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
    settings.n_threads = settings.n_threads_batch = 1
    settings.flash_attn_type = _NO_FLASH_ATTENTION
    settings.type_k = settings.type_v = _F32
    settings.swa_full = True
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(256, 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
    code = llama_cpp.llama_decode(context, batch)
    assert code == 0, f"{path}: llama_decode returned {code}"
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), vocabulary)).copy()
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits


def main(names: Collection[str]) -> None:
    """Write the logits of the models of those names, all if there are none."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    arrays: dict[str, F32] = {}
    if names:
        with np.load(LOGITS) as there:
            arrays |= there
    for path in sorted(FAMILIES.glob("*.gguf")):
        if path.stem in _OTHERS or (names and path.stem not in names):
            continue
        arrays[path.stem] = logits_of(path, TOKENS)
        _compare(path.stem, arrays[path.stem])
    np.savez_compressed(LOGITS, **dict(sorted(arrays.items())))
    print(f"{LOGITS.name}: {len(arrays)} arrays, {LOGITS.stat().st_size} bytes")


def _compare(name: str, logits: F32) -> None:
    with tempfile.TemporaryDirectory() as place:
        recorder = Recorder(make_model(name, Path(place) / f"{name}.gguf"))
    recorder.run(TOKENS)
    assert recorder.logits is not None
    errors, signal = np.square(recorder.logits - logits).sum(1), np.square(recorder.logits).sum(1)
    print(f"{name}: NMSE {errors.sum() / signal.sum():.1e} to transformers, {(errors / signal).max():.1e} at the worst position")


if __name__ == "__main__":
    main(sys.argv[1:])

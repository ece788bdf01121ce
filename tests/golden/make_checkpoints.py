"""Writes checkpoints/: what Hugging Face transformers saves of the tiny models, all but the weights' bytes; of families that it has no
class of, what published files hold (as_published.py).

    python -m tests.golden.make_checkpoints [NAME ...]

in the repository's root. Of each model: config.json, the header of model.safetensors, and the SHA-256 of that whole
file. The bytes of the weights are in the model's GGUF file already; tests/support/checkpoints.py puts the file together
again, and the SHA-256 says that it is what transformers saved. Needs torch, transformers, gguf and llama-cpp-python, and
sentence-transformers for embedding models; versions and date are in README.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

from tests.golden import family_models, tiny_llama
from tests.golden.as_published import ARCHITECTURES, save_as_published
from tests.golden.hf_to_gguf import ONE_MORE
from tests.golden.transformers_models import LoadedModel, load

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
NAMES = (
    "llama-f32-tied-rope-factors", "llama-bf16", "llama-f16", "llama-f32-linear", "qwen2-f32-yarn", "qwen3-f32", "gemma3-f32",
    "gemma3-f32-linear", "phi3-f32-window", "phi3-f32-long-factors", "mixtral-f32", "qwen2moe-f32", "qwen3moe-f32", "olmo2-f32",
    "olmo3-f32", "granite-f32", "glm4-f32", "gemma2-f32", "qwen3next-f32", "qwen35-f32", "qwen35moe-f32", "gpt-oss-f32", "gpt-oss-mxfp4",
    "mistral3-f32", "smollm3-f32", "command-r-f32", "command-r-plus-f32", "cohere2-f32", "exaone4-f32", "seed-oss-f32", "ernie4-5-f32",
    "arcee-f32", "glm4moe-f32", "deepseek2-f32", "deepseek2-lite-f32", "deepseek3-f32",
    "hunyuan-dense-f32", "hunyuan-moe-f32", "apertus-f32", "starcoder2-f32", "stablelm-f32", "stablelm-f32-parallel",
    "phi2-f32", "gpt2-f32", "nemotron-f32", "ernie4-5-moe-f32", "lfm2-f32", "lfm2moe-f32", "mamba2-f32", "granitehybrid-f32",
    "granitehybrid-f32-dense", "olmo-f32", "qwen35-f32-biases", "llama4-f32", "gemma-embedding-f32", "qwen3-embedding-f32",
    "gemma4-f32", "gemma4-f32-experts", "gemma3n-f32", "gemma-f32", "olmoe-f32", "granitemoe-f32", "minimax-m2-f32", "dots1-f32",
    "chatglm-f32", "qwen2vl-f32", "qwen3vl-f32", "qwen3vlmoe-f32", "gptneox-f32", "gptneox-f32-sequential", "exaone-f32",
    "phimoe-f32", "falcon-h1-f32", "falcon-h1-f32-norm", "nemotron-h-f32", "jais2-f32", "nemotron-h-moe-f32", "nemotron-h-moe-f32-latent", "bailingmoe2-f32", "deepseek-f32",
    "minicpm-f32", "internlm2-f32", "mamba-f32", "falcon-mamba-f32", "falcon-mamba-f32-biases", "jamba-f32", "jamba-f32-dense", "falcon-f32", "falcon-f32-groups", "minicpm3-f32",
    "baichuan-f32", "starcoder-f32", "starcoder-f32-heads", "dbrx-f32", "afmoe-f32", "exaone-moe-f32", "bitnet-f32",
    "bitnet-f32-relu2", "mimo2-f32", "deci-f32",
)  # fmt: skip


def make(names: Collection[str]) -> None:
    """Write the checkpoints of those names, all if there are none."""
    llama3 = {spec.name: spec.llama3_rope for spec in tiny_llama.MODELS}
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            if name in family_models.MODELS:
                path = family_models.FAMILIES / f"{name}.gguf"
                loaded = family_models.make_model(name, Path(folder) / path.name)
            else:
                path = HERE / f"{name}.gguf"
                loaded = load(path, llama3.get(name))
            if loaded.architecture in ARCHITECTURES:
                state = {name: values.float().numpy() for name, values in loaded.model.state_dict().items()}
                save_as_published(loaded.architecture, loaded.model.config, state, Path(folder) / "saved")
            else:
                save(loaded.model, path, Path(folder) / "saved")
            if loaded.pooling:
                add_modules(loaded, Path(folder) / "saved")
            keep(name, Path(folder) / "saved")


def save(model: Any, path: Path, folder: Path) -> None:
    """Save a model with the weights of its GGUF file in the precision that they have there: vectors in float32."""
    dtype = torch.bfloat16 if "-bf16" in path.stem else torch.float16 if "-f16" in path.stem else torch.float32
    for name, values in model.named_parameters():
        values.data = values.data.to(dtype if values.dim() > 1 else torch.float32)
        known = family_models.MODELS.get(path.stem)
        adds = known is not None and known.architecture in ONE_MORE and not name.endswith("linear_attn.norm.weight")
        if adds and name.endswith("norm.weight"):
            # The GGUF file holds 1 + weight, rounded.
            values.data = ((values.data + 1).double() - 1).float()
    for values in model.buffers():
        values.data = values.data.float() if values.is_floating_point() else values.data
    if hasattr(model.base_model, "visual"):  # whose weights are in no file here
        del model.base_model.visual
    model.save_pretrained(folder)
    if path.stem == "gpt-oss-mxfp4":
        pack_experts(path, folder)


def add_modules(loaded: LoadedModel, folder: Path) -> None:
    """The modules of sentence-transformers behind the transformer, as it saves them."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    hidden = loaded.model.config.hidden_size
    modes = {"mean": "mean", "first": "cls", "last": "lasttoken"}
    modules = [Pooling(hidden, pooling_mode=modes[loaded.pooling])]
    for matrix in loaded.dense:
        modules.append(Dense(matrix.shape[1], matrix.shape[0], bias=False, activation_function=torch.nn.Identity()))
        modules[-1].linear.weight.data = torch.from_numpy(matrix)
    modules.append(Normalize())
    rows = [{"idx": 0, "name": "0", "path": "", "type": f"{Transformer.__module__}.Transformer"}]
    for number, module in enumerate(modules, start=1):
        place = f"{number}_{type(module).__name__}"
        (folder / place).mkdir()
        module.save(str(folder / place))
        rows.append({"idx": number, "name": str(number), "path": place, "type": f"{type(module).__module__}.{type(module).__name__}"})
    (folder / "modules.json").write_text(json.dumps(rows, indent=2) + "\n")


def pack_experts(path: Path, folder: Path) -> None:
    """Put the experts into MXFP4 as openai/gpt-oss-20b has them; transformers has to unpack the same numbers."""
    from safetensors.numpy import load_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    state = load_file(folder / "model.safetensors")
    raw = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        rows = {part: _unpacked(raw[f"blk.{layer}.ffn_{part}_exps.weight"]) for part in ("gate", "up", "down")}
        both = [
            np.stack(pair, axis=2).reshape(pair[0].shape[0], -1, *pair[0].shape[2:]) for pair in zip(rows["gate"], rows["up"], strict=True)
        ]
        for name, (blocks, scales) in {"gate_up_proj": both, "down_proj": rows["down"]}.items():
            decoded = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
            assert np.array_equal(decoded.numpy(), state.pop(f"{experts}.{name}")), name
            state |= {f"{experts}.{name}_blocks": blocks, f"{experts}.{name}_scales": scales}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"modules_to_not_convert": [], "quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _unpacked(raw: Any) -> tuple[Any, Any]:
    """Blocks [X, rows, columns / 32, 16] with neighbours in a byte, and scales [X, rows, columns / 32], of MXFP4."""
    parts = raw.reshape(*raw.shape[:2], -1, 17)
    values = np.concatenate((parts[..., 1:] & 15, parts[..., 1:] >> 4), axis=-1)
    return np.ascontiguousarray(values[..., ::2] | values[..., 1::2] << 4), np.ascontiguousarray(parts[..., 0])


def keep(name: str, saved: Path) -> None:
    """Keep what a checkpoint holds beside the bytes of weights."""
    target = CHECKPOINTS / name
    target.mkdir(parents=True, exist_ok=True)
    raw = (saved / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    (target / "config.json").write_bytes((saved / "config.json").read_bytes())
    (target / "header.json").write_bytes(raw[8 : 8 + length])
    (target / "sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}\n")
    for path in (*saved.glob("modules.json"), *saved.glob("*_*/config.json")):
        place = target / path.relative_to(saved)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
    print(f"{name}: header of {length} bytes")


if __name__ == "__main__":
    make(sys.argv[1:])

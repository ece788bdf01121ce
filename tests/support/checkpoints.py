"""Puts together the checkpoints that transformers saved of the golden models (tests/golden/make_checkpoints.py).

The weights come from each model's GGUF file, by the gguf package's decoders and map of names, with the order of rows and
the sums of norms undone here; the SHA-256 of the file that transformers saved says that nothing is otherwise.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.support.golden import FAMILIES, GOLDEN

CHECKPOINTS = GOLDEN / "checkpoints"
#: The checkpoints that there are.
NAMES = tuple(sorted(path.name for path in CHECKPOINTS.iterdir()))
_DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "U8": np.uint8}
_PERMUTED = (
    "llama",
    "granite",
    "granitemoe",
    "arcee",
    "olmo",
    "mistral3",
    "smollm3",
    "granitehybrid",
    "deepseek",
    "minicpm",
    "internlm2",
    "baichuan",
    "deci",
)
#: Whose weights of norms are held less one.
_AROUND_ZERO = ("gemma", "gemma2", "gemma3", "gemma-embedding", "nemotron")
Values = npt.NDArray[Any]
#: Of a layer of Gemma 4 what is no module's weight, or is held as checkpoints have it.
_GEMMA_4 = {
    "router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale", "layer_scalar": "layer_output_scale.weight",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight", "experts.down_proj": "ffn_down_exps.weight",
}  # fmt: skip


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of that name as transformers saved it, and return its folder."""
    kept = CHECKPOINTS / name
    path = folder / name
    path.mkdir()
    (path / "config.json").write_bytes((kept / "config.json").read_bytes())
    content = safetensors_of(name)
    assert hashlib.sha256(content).hexdigest() == (kept / "sha256").read_text().strip()
    (path / "model.safetensors").write_bytes(content)
    for module in (*kept.glob("modules.json"), *kept.glob("*_*/config.json")):
        (path / module.relative_to(kept)).parent.mkdir(exist_ok=True)
        (path / module.relative_to(kept)).write_bytes(module.read_bytes())
    for tensor in gguf.GGUFReader(gguf_of(name)).tensors:
        if tensor.name.startswith("dense_"):
            place = path / f"{tensor.name[len('dense_')]}_Dense" / "model.safetensors"
            place.write_bytes(float_tensors({"linear.weight": np.asarray(tensor.data)}))
    return path


def gguf_of(name: str) -> Path:
    """The GGUF file of the same model."""
    return next(path for path in (GOLDEN / f"{name}.gguf", FAMILIES / f"{name}.gguf") if path.is_file())


@cache
def safetensors_of(name: str) -> bytes:
    """The bytes of model.safetensors."""
    raw_header = (CHECKPOINTS / name / "header.json").read_bytes()
    header: dict[str, Any] = json.loads(raw_header)
    header.pop("__metadata__", None)
    weights = _Weights(gguf_of(name))
    config = json.loads((CHECKPOINTS / name / "config.json").read_text())
    data = bytearray(max(entry["data_offsets"][1] for entry in header.values()))
    for own_name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = weights.of(own_name)
        if config["model_type"] == "falcon_h1":
            values = _without_factors(config, own_name, values)
        if own_name.endswith("position_embeddings.weight"):  # those of no position are zeros here, and not in GGUF
            values = np.pad(values, ((entry["shape"][0] - len(values), 0), (0, 0)))
        values = values.astype(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        data[begin:end] = np.ascontiguousarray(values).tobytes()
    return len(raw_header).to_bytes(8, "little") + raw_header + bytes(data)


def _without_factors(config: Mapping[str, Any], own_name: str, values: Values) -> Values:
    """A tensor of Falcon-H1 divided by what conversion multiplied it by, powers of two."""
    inner, keys = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
    rows = np.repeat(np.array(config["ssm_multipliers"], np.float32), [inner, inner, keys, keys, config["mamba_n_heads"]])
    of_input = config["attention_in_multiplier"]
    factors = {
        "q_proj": of_input, "k_proj": of_input * config["key_multiplier"], "v_proj": of_input, "o_proj": config["attention_out_multiplier"],
        "gate_proj": config["mlp_multipliers"][0], "down_proj": config["mlp_multipliers"][1], "out_proj": config["ssm_out_multiplier"],
        "in_proj": config["ssm_in_multiplier"] * rows[:, None], "embed_tokens": config["embedding_multiplier"],
        "lm_head": config["lm_head_multiplier"],
    }  # fmt: skip
    return values / np.float32(factors.get(own_name.split(".")[-2], 1.0))


def float_tensors(arrays: Mapping[str, Values]) -> bytes:
    """A file of safetensors with tensors in float32."""
    header, data = {}, b""
    for name, values in arrays.items():
        raw = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class _Weights:
    """The weights of a GGUF file under transformers' names."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self._architecture: str = reader.fields["general.architecture"].contents()
        self._fields = reader.fields
        self._raw = {tensor.name: tensor for tensor in reader.tensors}
        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self._architecture)
        self._names = gguf.get_tensor_name_map(kind, self._key("block_count"))

    def _key(self, name: str) -> Any:
        return self._fields[f"{self._architecture}.{name}"].contents()

    def _decoded(self, name: str) -> Values:
        tensor = self._raw[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    def of(self, own_name: str) -> Values:
        own_name = own_name.replace("model.language_model.", "model.")
        # Of a class without a head.
        if own_name.startswith(("layers.", "embed_tokens.", "norm.")) and self._architecture != "modern-bert":
            own_name = f"model.{own_name}"
        fused = re.fullmatch(r"model\.layers\.(\d+)\.(?:mlp|feed_forward)\.experts\.(gate_up|down)_proj(_\w+)?", own_name)
        if fused is not None:
            return self._fused(int(fused[1]), fused[2] == "down", fused[3] or "")
        if ".kv_b_proj." in own_name and not any("attn_kv_b" in name for name in self._raw):
            layer = own_name.split(".")[2]
            k, v = (self._decoded(f"blk.{layer}.attn_{part}_b.weight") for part in "kv")
            return np.concatenate([k.swapaxes(1, 2), v], axis=1)
        if self._architecture == "gemma4" and (theirs := _GEMMA_4.get(own_name.split(".", 3)[-1])) is not None:
            return self._decoded(f"blk.{own_name.split('.')[2]}.{theirs}")
        of_nemotron = re.fullmatch(r"backbone\.layers\.(\d+)\.mixer\.(?:experts\.(\d+)\.(up|down)_proj\.weight|(gate\..*_bias))", own_name)
        if of_nemotron is not None:
            layer, number, part, bias = of_nemotron.groups()
            return self._decoded(f"blk.{layer}.exp_probs_b.bias" if bias else f"blk.{layer}.ffn_{part}_exps.weight")[
                int(number or 0) if part else ...
            ]
        if (joined := re.fullmatch(r"model\.layers\.(\d+)\.attention\.wqkv\.weight", own_name)) is not None:
            return self._of_internlm2(int(joined[1]))
        if (packed := re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.W_pack\.weight", own_name)) is not None:
            return np.concatenate(
                [
                    self.of(f"model.layers.{packed[1]}.self_attn.{part}_proj.weight").reshape(-1, self._key("embedding_length"))
                    for part in "qkv"
                ]
            )
        if ".ffn.experts.mlp." in own_name:  # of DBRX, whose names have no end
            values = self._decoded(f"{self._names.get_name(own_name)}.weight")
            return values.swapaxes(1, 2) if own_name.endswith("w2") else values
        if ".linear_attn." in own_name or ".mixer." in own_name or ".mamba." in own_name:
            return self._delta_net(own_name)
        granite = re.fullmatch(r"model\.layers\.(\d+)\.(block_sparse_moe|shared_mlp)\.(input|output)_linear\.weight", own_name)
        if granite is not None:
            return self._granite(f"blk.{granite[1]}.ffn", granite[2] == "shared_mlp", granite[3] == "output")
        number = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.act_fn\.(\w+)", own_name)
        if number is not None:
            return np.float32(self._fields[f"xielu.{number[2]}"].contents()[int(number[1])])
        expert = re.search(r"\.(?:experts|norms|altup_\w+)\.(\d+)\.", own_name)
        own_name = re.sub(r"(\.norms|(altup_\w+))\.\d+\.", r"\2.", own_name)
        own_name = own_name.replace("correct_output_scale", "correct_output_scale.weight")
        own_name = own_name.replace("e_score_correction_bias", "e_score_correction.bias").replace("expert_bias", "expert_bias.bias")
        if self._architecture == "jamba":
            own_name = own_name.replace("feed_forward.experts", "mlp.experts")
        if own_name.endswith("_sub_norm.weight"):
            return self._decoded(re.sub(r"model\.layers\.(\d+)\.(mlp|self_attn)", r"blk.\1", own_name))
        name = self._names.get_name(_one_an_expert(own_name), try_suffixes=(".weight", ".bias"))
        if (sinks := re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.(?:sinks|attention_sink_bias)", own_name)) is not None:
            name = f"blk.{sinks[1]}.attn_sinks.weight"
        assert name is not None, f"no name in GGUF for {own_name}"
        if name == "output.weight" and name not in self._raw:
            name = "token_embd.weight"
        values = self._decoded(name)
        if expert is not None:
            return values[int(expert[1])]
        if self._architecture in _PERMUTED and re.search(r"[qk]_proj", own_name):
            heads = self._key("attention.head_count" if "q_proj" in own_name else "attention.head_count_kv")
            heads = heads[int(own_name.split(".")[2])] if isinstance(heads, list) else heads
            return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2)
        if ".query_key_value." in own_name and self._architecture == "gptneox":
            return values.reshape(3, self._key("attention.head_count"), -1, *values.shape[1:]).swapaxes(0, 1)
        if ".c_attn." in own_name and self._architecture == "starcoder" and self._key("attention.head_count_kv") > 1:
            return values.reshape(3, self._key("attention.head_count"), -1, *values.shape[1:]).swapaxes(0, 1)
        if ".self_attention.query_key_value." in own_name:
            return self._of_falcon(values)
        around_zero = self._architecture in _AROUND_ZERO or self._architecture.startswith(("qwen3next", "qwen35"))
        if around_zero and own_name.endswith("norm.weight"):
            return values.astype(np.float64) - 1
        if self._architecture == "gpt2" and re.search(r"\.c_(attn|proj|fc)\.weight$", own_name):
            return values.T
        return values

    def _of_falcon(self, values: Values) -> Values:
        """q, k and v of each KV head together."""
        groups, heads = self._key("attention.head_count_kv"), self._key("attention.head_count")
        size = len(values) // (heads + 2 * groups)
        parts = np.split(values, [heads * size, (heads + groups) * size])
        return np.concatenate([part.reshape(groups, -1, *values.shape[1:]) for part in parts], axis=1)

    def _of_internlm2(self, layer: int) -> Values:
        """q, k and v as one tensor, KV group by KV group."""
        groups = self._key("attention.head_count_kv")
        q, k, v = (self._decoded(f"blk.{layer}.attn_{part}.weight") for part in "qkv")
        size = len(k) // groups
        q, k = (part.reshape(-1, size // 2, 2, part.shape[1]).swapaxes(1, 2) for part in (q, k))
        return np.concatenate([part.reshape(groups, -1, v.shape[1]) for part in (q, k, v)], axis=1)

    def _delta_net(self, own_name: str) -> Values:
        """Of a recurrent layer: q, k, v and the gate head by head in one, the logarithms of the rates of decay, kernels with an axis more."""
        name = self._names.get_name(own_name.replace("dt_bias", "dt_proj.bias"), try_suffixes=(".weight", ".bias"))
        assert name is not None, f"no name in GGUF for {own_name}"
        if own_name.endswith("A_log"):
            logarithms = np.log(-self._decoded(name).astype(np.float64))
            return self._as_neighbours(own_name, logarithms) if self._architecture.startswith("qwen35") else logarithms
        if own_name.endswith("in_proj_qkvz.weight"):
            mixed, gate = (self._decoded(name.replace("ssm_in", part)) for part in ("attn_qkv", "attn_gate"))
            heads = self._key("ssm.group_count")
            keys = heads * self._key("ssm.state_size")
            parts = (*np.split(mixed, [keys, 2 * keys]), gate)
            return np.concatenate([part.reshape(heads, -1, part.shape[1]) for part in parts], axis=1)
        return self._as_neighbours(own_name, self._decoded(name)) if self._architecture.startswith("qwen35") else self._decoded(name)

    def _granite(self, start: str, is_shared: bool, is_down: bool) -> Values:
        """Gate and up in one, of the experts or of the network beside them, which is the only one where there are none."""
        has_experts = f"{start}_gate_inp.weight" in self._raw
        end = "_shexp" if is_shared and has_experts else "" if is_shared else "_exps"
        return np.concatenate(
            [self._decoded(f"{start}_{part}{end}.weight") for part in (("down",) if is_down else ("gate", "up"))], axis=-2
        )

    def _as_neighbours(self, own_name: str, values: Values) -> Values:
        """With heads of v that share one of q and k as neighbours, which conversion has put far apart."""
        groups = self._key("ssm.group_count")
        size = self._key("ssm.inner_size") // self._key("ssm.time_step_rank")

        def moved(rows: Values, head: int) -> Values:
            return rows.reshape(-1, groups, head, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

        keys = 2 * groups * self._key("ssm.state_size")
        if "in_proj_qkv." in own_name or "conv1d" in own_name:
            return np.concatenate([values[:keys], moved(values[keys:], size)])
        if "out_proj" in own_name:
            return moved(values.T, size).T
        if "linear_attn.norm" in own_name:
            return values
        return moved(values, size if "in_proj_z" in own_name else 1)

    def _fused(self, layer: int, is_down: bool, end: str) -> Values:
        """gpt-oss: gate and up in alternating rows, or columns where matrices have the rows of x first; Llama 4, Qwen3-VL: one behind the other."""
        parts = ("down",) if is_down else ("gate", "up")
        names = [f"blk.{layer}.ffn_{part}_exps.{'bias' if end == '_bias' else 'weight'}" for part in parts]
        if end in ("_blocks", "_scales"):
            rows = [_packed(self._raw[name].data, end == "_scales") for name in names]
            return np.stack(rows, axis=2).reshape(rows[0].shape[0], -1, *rows[0].shape[2:])
        values = [self._decoded(name) for name in names]
        if self._architecture in ("llama4", "qwen3vlmoe"):
            both = np.concatenate(values, axis=1)
            return both.swapaxes(1, 2) if self._architecture == "llama4" else both
        return np.stack(values if end == "_bias" else [one.swapaxes(1, 2) for one in values], axis=-1)


def _packed(raw: Values, scales: bool) -> Values:
    """MXFP4 with two neighbours in a byte, or its scales."""
    blocks = raw.reshape(*raw.shape[:2], -1, 17)
    if scales:
        return blocks[..., 0]
    values = np.concatenate((blocks[..., 1:] & 15, blocks[..., 1:] >> 4), axis=-1)
    return values[..., ::2] | values[..., 1::2] << 4


def _one_an_expert(name: str) -> str:
    """The name under which the gguf package knows a tensor that is one expert's."""
    if "feed_forward.experts" in name:
        return re.sub(r"^model\.(.+\.experts)\.\d+", r"\1", name)
    mixtral = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    found = re.sub(r"\.experts\.\d+\.(\w+)\.", lambda match: f".experts.{mixtral.get(match[1], match[1])}.", name)
    return found.replace("block_sparse_moe.experts", "mlp.experts")

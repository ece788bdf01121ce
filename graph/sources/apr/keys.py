"""The metadata of an `.apr` file in GGUF's keys.

`apr` has names of its own for a model's numbers, and reads others in their place (paiml/aprender,
crates/apr-format/src/v2/header_impl.rs); those of its tokenizer are GGUF's, shortened, where the file was made from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.families.registry import FAMILIES, is_known
from aprgraph.graph.metadata import ListValue, Scalar

#: Key in GGUF, without the architecture, by the names that stand for it in an .apr file, the usual one first.
_MODEL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("embedding_length", ("hidden_size", "hidden_dim", "d_model", "n_embd")),
    ("block_count", ("num_layers", "num_hidden_layers", "n_layers", "n_layer")),
    ("attention.head_count", ("num_heads", "num_attention_heads", "n_heads", "n_head")),
    ("attention.head_count_kv", ("num_kv_heads", "num_key_value_heads", "n_kv_heads")),
    ("vocab_size", ("vocab_size", "n_vocab")),
    ("feed_forward_length", ("intermediate_size", "ffn_dim", "intermediate_dim", "n_inner")),
    ("context_length", ("max_position_embeddings", "max_seq_len", "context_length", "n_ctx")),
    ("rope.freq_base", ("rope_theta",)),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps", "layer_norm_eps", "norm_eps")),
    ("attention.key_length", ("head_dim",)),
    ("expert_count", ("num_experts",)),
    ("expert_used_count", ("num_experts_per_tok",)),
    ("expert_feed_forward_length", ("moe_intermediate_size",)),
)
#: Whole keys in GGUF, by name.
_TOKENIZER: Mapping[str, str] = {
    "tokenizer.vocabulary": "tokenizer.ggml.tokens",
    "tokenizer.merges": "tokenizer.ggml.merges",
    "tokenizer.scores": "tokenizer.ggml.scores",
    "tokenizer.token_type": "tokenizer.ggml.token_type",
    "tokenizer.pre_type": "tokenizer.ggml.pre",
    "tokenizer.model": "tokenizer.ggml.model",
    "tokenizer.bos_token_id": "tokenizer.ggml.bos_token_id",
    "tokenizer.eos_token_id": "tokenizer.ggml.eos_token_id",
    "tokenizer.padding_token_id": "tokenizer.ggml.padding_token_id",
    "tokenizer.add_bos_token": "tokenizer.ggml.add_bos_token",
    "tokenizer.chat_template": "tokenizer.chat_template",
    "chat_template": "tokenizer.chat_template",
}
#: Numbers that `apr` holds in float32 and writes as short as that allows.
_FLOAT32 = ("rope.freq_base", "attention.layer_norm_rms_epsilon")


class AprKeys:
    """``values`` by key of GGUF; what has no such key stays under its own name. ``architecture`` is GGUF's name of it.

    Raises ModelFileError for an array of the tokenizer that makes no sense.
    """

    def __init__(self, path: Path, written: Mapping[str, Any]) -> None:
        self._path = path
        named = self._architecture(written)
        self.architecture = named or "model"
        self._by_name = {name: f"{self.architecture}.{key}" for key, names in _MODEL for name in names} | dict(_TOKENIZER)
        self.values: dict[str, object] = {"general.architecture": named} if named else {}
        for key, value in self._translated(written):
            self.values.setdefault(key, value)

    def gguf_key(self, name: str) -> str:
        """The key in GGUF of one of the file's own names; any other is returned as it is."""
        return self._by_name.get(name, name)

    def _architecture(self, written: Mapping[str, Any]) -> str | None:
        names = [written.get(name) for name in ("architecture", "hf_model_type", "hf_architecture")]
        given = [name for name in names if isinstance(name, str) and name]
        return next((known for name in given if (known := _known(name)) is not None), given[0] if given else None)

    def _translated(self, written: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
        """Keys and values, the usual name of a number before those that may stand for it."""
        usual = [name for _, names in _MODEL for name in names if name in written]
        for name in [*usual, *(name for name in written if name not in usual)]:
            value = written[name]
            if value is None or name == "architecture":
                continue
            key = self.gguf_key(name)
            if isinstance(value, list):
                array = self._array(name, value)
                if array is not None:
                    yield key, array
            elif isinstance(value, (bool, int, float, str)):
                yield key, self._number(key, value) if isinstance(value, float) else value

    def _number(self, key: str, value: float) -> Scalar:
        if key.partition(".")[2] in _FLOAT32:
            with np.errstate(over="ignore"):
                return float(np.float32(value))
        return int(value) if value.is_integer() and abs(value) < 1 << 53 and key in self._by_name.values() else value

    def _array(self, name: str, values: list[Any]) -> ListValue | None:
        if all(isinstance(value, str) for value in values):
            # Whoever reads a text that is no valid Unicode finds that it is no valid UTF-8.
            return ListValue([value.encode("utf-8", errors="surrogatepass") for value in values])
        if all(isinstance(value, (bool, int, float)) for value in values):
            return ListValue(values)
        if name in _TOKENIZER:
            raise ModelFileError(f"{self._path}: {name} is {shown(values)}, expected strings alone or numbers alone; the file is damaged")
        return None


def _known(name: str) -> str | None:
    """The architecture in GGUF of a name: itself, or of the class of transformers that ``name`` is, or is the model_type of."""
    if is_known(name):
        return name
    plain = name.removesuffix("ForCausalLM").replace("_", "").lower()
    for architecture, family in FAMILIES.items():
        if any(one.removesuffix("ForCausalLM").lower() == plain for one in family.own_hf_classes()):
            return architecture
    return None

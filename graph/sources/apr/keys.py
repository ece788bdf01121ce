"""The metadata of an `.apr` file in GGUF's keys.

`apr` has names of its own for a model's numbers, and reads others in their place (paiml/aprender,
crates/apr-format/src/v2/header_impl.rs); those of its tokenizer are GGUF's, shortened, where the file was made from
one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.families.registry import FAMILIES, is_known
from aprgraph.graph.metadata import ListValue, Metadata, Scalar
from aprgraph.graph.sources.checkpoint.config_defaults import OTHER_KEYS

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
#: Fields of config.json that `apr` does not read, and what they say in GGUF: a file that has them all the same means them.
_OF_CONFIG: Mapping[str, str] = {
    **OTHER_KEYS,
    "sliding_window": "attention.sliding_window",
    **{name: name for name in ("rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor", "layer_types",
                               "query_pre_attn_scalar")},
}  # fmt: skip
#: Numbers that GGUF holds in float32: `apr` takes them from there, and writes them as short as that allows.
_FLOAT32 = ("rope.freq_base", "attention.layer_norm_rms_epsilon")


class AprMetadata(Metadata):
    """The metadata of an `.apr` file. Keys are GGUF's; what has none stays under its own name. A number may be
    overridden by the file's own name for it too.

    Raises ModelFileError for an array of the tokenizer that makes no sense.
    """

    def __init__(
        self, path: Path, written: Mapping[str, Any], dialect: Literal["gguf", "hf"], overrides: Mapping[str, Scalar | str] | None = None
    ) -> None:
        self.dialect = dialect
        self._written, self._overrides = written, dict(overrides or {})
        named = _architecture(written)
        self._prefix = named or "model"
        self._by_name = {name: f"{self._prefix}.{key}" for key, names in _MODEL for name in names} | dict(_TOKENIZER)
        self._by_name |= {name: f"{self._prefix}.{key}" for name, key in _OF_CONFIG.items() if name not in self._by_name}
        self._own_names = {f"{self._prefix}.{key}": names[0] for key, names in _MODEL}
        values: dict[str, object] = {"general.architecture": named} if named else {}
        for name, key, value in self._translated(path):
            if key not in values:
                values[key], self._own_names[key] = value, name
        if str(written.get("tokenizer.model_type")).lower() == "bpe" and "tokenizer.ggml.pre" in values:
            values.setdefault("tokenizer.ggml.model", "gpt2")
        super().__init__(path, {**values, **self._overrides})

    @property
    def expert_count(self) -> object:
        """How many experts the file says that there are, if it does."""
        return self.get(f"{self._prefix}.expert_count")

    @property
    def no_tokenizer(self) -> str:
        """See ``Metadata.no_tokenizer``."""
        return f"{self.path}: has no tokenizer whose kind and way of splitting words it names (tokenizer.model, tokenizer.pre_type); "

    def own_name(self, key: str) -> str:
        """What the file calls ``key``, or would call it."""
        return self._own_names.get(key, key)

    def described(self, key: str) -> str:
        """``metadata key 'hidden_size'``."""
        return super().described(self.own_name(key))

    def with_overrides(self, overrides: Mapping[str, Scalar | str]) -> Metadata:
        """The same with numbers replaced, under the file's names or GGUF's. Raises ModelError if one is an array."""
        keys = {self._by_name.get(name, name): value for name, value in overrides.items()}
        super().with_overrides(keys)  # raises for an array
        return AprMetadata(self.path, self._written, self.dialect, {**self._overrides, **keys})

    def is_read(self, key: str) -> bool:
        """Whether a getter has been asked for a key, under GGUF's name or the file's own."""
        return super().is_read(self._by_name.get(key, key))

    def _translated(self, path: Path) -> Iterator[tuple[str, str, object]]:
        """Names, keys and values, the usual name of a number before those that may stand for it."""
        usual = [name for _, names in _MODEL for name in names if name in self._written]
        for name in [*usual, *(name for name in self._written if name not in usual)]:
            value, key = self._written[name], self._by_name.get(name, name)
            if value is None or name == "architecture" or (name in _OF_CONFIG and not value):
                continue
            if isinstance(value, float):
                yield name, key, self._number(key, value)
            elif isinstance(value, (bool, int, str)):
                yield name, key, value
            elif name in _OF_CONFIG:
                yield name, key, json.dumps(value)
            elif isinstance(value, list) and (array := _array(path, name, value)) is not None:
                yield name, key, array

    @property
    def _is_of_gguf(self) -> bool:
        """Whether the file was made from GGUF: its names may be a checkpoint's all the same."""
        return self.dialect == "gguf" or self._written.get("original_format") == "gguf" or "tokenizer.model" in self._written

    def _number(self, key: str, value: float) -> Scalar:
        if self._is_of_gguf and key.partition(".")[2] in _FLOAT32:
            with np.errstate(over="ignore"):
                return float(np.float32(value))
        return int(value) if value.is_integer() and abs(value) < 1 << 53 and key in self._own_names else value


def _array(path: Path, name: str, values: list[Any]) -> ListValue | None:
    if all(isinstance(value, str) for value in values):
        # Whoever reads a text that is no valid Unicode finds that it is no valid UTF-8.
        return ListValue([value.encode("utf-8", errors="surrogatepass") for value in values])
    if all(isinstance(value, (bool, int, float)) for value in values):
        return ListValue(values)
    if name in _TOKENIZER:
        raise ModelFileError(f"{path}: {name} is {shown(values)}, expected strings alone or numbers alone; the file is damaged")
    return None


def _architecture(written: Mapping[str, Any]) -> str | None:
    names = [written.get(name) for name in ("architecture", "hf_model_type", "hf_architecture")]
    given = [name for name in names if isinstance(name, str) and name]
    return next((known for name in given if (known := _known(name)) is not None), given[0] if given else None)


def _known(name: str) -> str | None:
    """The architecture in GGUF of a name: itself, or of the class of transformers that ``name`` is, or is the
    model_type of.
    """
    if is_known(name):
        return name
    plain = name.removesuffix("ForCausalLM").removesuffix("_text").replace("_", "").lower()
    for architecture, family in FAMILIES.items():
        if any(one.removesuffix("ForCausalLM").lower() == plain for one in family.own_hf_classes()):
            return architecture
    return None

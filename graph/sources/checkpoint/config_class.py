"""The class of transformers that a config.json names, and the fields of its text model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import FAMILY, MODELS
from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.families import FAMILIES, Family
from aprgraph.graph.families.registry import find_family_of_class, find_family_of_kind
from aprgraph.graph.sources.checkpoint.config_defaults import CLASS_DEFAULTS
from aprgraph.graph.sources.checkpoint.nearest_class import nearest_class

_CAUSAL, _WITH_IMAGES = "ForCausalLM", "ForConditionalGeneration"
#: By ``model_type``: fields that a class goes by before `tie_word_embeddings`.
_TIED_BY = {"lfm2": "tie_embedding", "lfm2_moe": "tie_embedding"}
#: Of classes that are the decoder alone, and of some that are not.
_BARE, _GPT = "Model", "LMHeadModel"
#: Classes with images too, which tie the head of the text model where no field says otherwise.
_TIED = tuple(f"{name}{_WITH_IMAGES}" for name in ("Mistral3", "Gemma3", "Gemma3n", "Gemma4"))
#: A ``model_type`` that files bear although they name the class of another, or hold the fields of its text model themselves.
_SAME_CLASS = {
    "kimi_k2": "deepseek_v3", "RefinedWeb": "falcon", "RefinedWebModel": "falcon",
    "qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text",
}  # fmt: skip
#: The field that says of each layer which kind of feed-forward network it has.
MLP_KINDS = "mlp_layer_types"


def leading_dense(kinds: object) -> int | None:
    """How many layers come before those with experts, by the kinds of all; None where that is not how they are ordered."""
    if not isinstance(kinds, list) or not all(kind in ("dense", "sparse") for kind in kinds):
        return None
    count = kinds.count("dense")
    return count if "dense" not in kinds[count:] else None


def named_class(config: Mapping[str, Any]) -> str | None:
    """The class of transformers that a config.json names first; None for none, and for what is no list of names."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def find_class(config: Mapping[str, Any], where: Path, tensors: Collection[str] = ()) -> type[Family]:
    """The family of the class of transformers that a config.json names, or of its `model_type`. Raises ModelError or UnsupportedModelError.

    ``tensors`` are the names in the files, by which the error names the nearest class.
    """
    name = named_class(config)
    kind = text_config(config).get("model_type")
    if name is None:
        if not isinstance(kind, str):
            raise ModelError(f"{where}: names neither architectures nor model_type; expected the config.json of a model of transformers")
        name = _class_of_kind(kind)
    family = find_family_of_kind(kind) or find_family_of_class(name)
    if family is None:
        near = nearest_class(name, tensors)
        raise UnsupportedModelError(
            f"{where}: architectures is {shown(name)}, a class that aprgraph does not have{near and '; '}{near}; `",
            MODELS,
            "` lists the families that it has; another can be brought as a family of your own, derived from one of them "
            "(docs/families.md): ",
            FAMILY,
        )
    return family.of_config(text_config(config))


def kind_of(config: Mapping[str, Any]) -> str:
    """The ``model_type`` of the text model, by the name of its class where the file leaves it out; "" for none."""
    kind = text_config(config).get("model_type")
    if isinstance(kind, str):
        return _SAME_CLASS.get(kind, kind)
    name = named_class(config)
    return "" if name is None else _kind_of_class(name)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the text model, which lie in an object of their own where a model also has images or sound."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config
    return {**{name: config[name] for name in ("architectures", "tie_word_embeddings", "quantization_config") if name in config}, **inner}


def has_head(config: Mapping[str, Any]) -> bool:
    """Whether the class that config.json names has a head that gives logits. A file that names no class is of one that has."""
    name = named_class(config) or ""
    return not name.endswith(_BARE) or name.endswith(_GPT)


def is_tied(config: Mapping[str, Any], *, has_head: bool) -> bool:
    """Whether config.json ties the head to the embedding table. Of a model with images too the outer field counts.

    Where that is left out, a class that ties by default still has the head of a file that holds one (``has_head``).
    """
    name, whole = "tie_word_embeddings", named_class(config) or ""
    if whole.endswith(_WITH_IMAGES) and "text_config" in config and (name in config or (whole in _TIED and not has_head)):
        return bool(config.get(name, True))
    kind, text = kind_of(config), text_config(config)
    default = CLASS_DEFAULTS.get(kind, {}).get(name, False)
    return bool(text.get(_TIED_BY.get(kind, name), text.get(name, default)))


def _class_of_kind(kind: str) -> str:
    """The class of a ``model_type``: one of a family, such as ``SmolLM3ForCausalLM`` of ``smollm3``, or a name made of it."""
    classes = (name for family in FAMILIES.values() for name in family.own_hf_classes())
    usual = "".join(part.capitalize() for part in kind.split("_"))
    return next((name for name in classes if name.endswith(_CAUSAL) and _stem(name) == _stem(kind)), usual + _CAUSAL)


def _kind_of_class(name: str) -> str:
    """The ``model_type`` of a class by its name, "" for one that is not of this package."""
    return next((kind for kind in CLASS_DEFAULTS if _stem(kind) == _stem(name)), "")


def _stem(name: str) -> str:
    """What a class and its ``model_type`` are both called, in small letters: ``qwen2moe`` of ``qwen2_moe`` and ``Qwen2MoeForCausalLM``."""
    return name.removesuffix(_CAUSAL).removesuffix(_WITH_IMAGES).removesuffix(_BARE).removesuffix("_text").replace("_", "").lower()

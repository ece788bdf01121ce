"""Fields of config.json that give kinds of layers numbers of their own, as the lists of one for each layer that GGUF has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PERIOD, _GLOBAL_HEAD, _KV_HEADS = 6, 512, 4
_PER_LAYER = "per_layer_config"
#: What the layers of one kind may have of their own.
_OWN = {"head_dim", "num_key_value_heads"}
#: Fields that those say which are made of them.
_READ = ("num_global_key_value_heads", "use_double_wide_mlp", "enable_moe_block")


def with_numbers_of_layers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Gemma4TextConfig of transformers 5.24 with what GGUF has of each layer in place of what says it of kinds.

    Of every sixth layer, and of the last in any case, one sees everything, with heads of `global_head_dim`, and where they
    are their own v, `num_global_key_value_heads` of them. `per_layer_config`, which transformers writes, says the same; one
    that says anything else is left as it is. Layers that share keys have a dense network of twice the size where
    `use_double_wide_mlp` says so, and there are experts where `enable_moe_block` does.
    """
    layers = fields.get("num_hidden_layers")
    if type(layers) is not int or layers < 1:  # an error of the number's own
        return dict(fields)
    made = {name: value for name, value in fields.items() if name not in _READ}
    kinds = fields.get("layer_types")
    if kinds is None:
        kinds = [_SLIDING if (layer + 1) % _PERIOD else _FULL for layer in range(layers)]
    if isinstance(kinds, list) and kinds:
        made["layer_types"] = kinds = [*kinds[:-1], _FULL]
        own = _own_numbers(fields, kinds)
        if own is not None:
            made.pop(_PER_LAYER, None)
        own = own or {}
        made["global_head_dim"] = own.get("head_dim", fields.get("head_dim"))
        heads, full = fields.get("num_key_value_heads", _KV_HEADS), own.get("num_key_value_heads")
        if full is not None:
            made["num_key_value_heads"] = [full if one == _FULL else heads for one in kinds]
    size, shared = fields.get("intermediate_size"), fields.get("num_kv_shared_layers", 0)
    if fields.get("use_double_wide_mlp") and type(size) is int and type(shared) is int:
        made["intermediate_size"] = [size * (1 + (layer >= layers - shared)) for layer in range(layers)]
    return made if fields.get("enable_moe_block") else {**made, "num_experts": 0}


def _own_numbers(fields: Mapping[str, Any], kinds: list[Any]) -> Mapping[str, Any] | None:
    """What the layers that see everything have of their own, by the usual field; None where layers differ otherwise."""
    written = fields.get(_PER_LAYER)
    if written is None:
        heads = fields.get("num_global_key_value_heads") if fields.get("attention_k_eq_v") else None
        return {"head_dim": fields.get("global_head_dim", _GLOBAL_HEAD), **({} if heads is None else {"num_key_value_heads": heads})}
    full = {str(layer) for layer, one in enumerate(kinds) if one == _FULL}
    values = list(written.values()) if isinstance(written, dict) else [None]
    fits = isinstance(written, dict) and set(map(str, written)) == full and all(value == values[0] for value in values)
    return values[0] if fits and isinstance(values[0], dict) and set(values[0]) <= _OWN else None

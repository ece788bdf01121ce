"""The `minicpm` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.granite import Granite
from aprgraph.graph.families.numbers import Reading, real

#: What published models have, and files of older converters do not say: the scale of embeddings, that of what is added, and the size
#: of the small model whose logits are as large.
_EMBEDDING, _DEPTH, _BASE = 12.0, 1.4, 256
#: Made of `scale_depth` and `dim_model_base`, as the code that came with the models does.
_RESIDUAL, _LOGITS = "scale_depth / sqrt(num_hidden_layers)", "hidden_size / dim_model_base"


class MiniCpm(Granite):
    """MiniCPM 1, 2 and 4, the dense models (arXiv:2404.06395): a Llama whose embedding, logits, and what is added to the residual stream
    are scaled.

    Checkpoints are of the code that came with them: transformers has no class of it.
    """

    architecture = "minicpm"
    hf_classes = "MiniCPMForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    has_rope: Reading[bool] = Reading(lambda _: True)
    embedding_scale = real("embedding_scale", "scale_emb", _EMBEDDING)
    scale = real("attention.scale", None, lambda f: f.head_size**-0.5)
    residual_scale = real("residual_scale", _RESIDUAL, lambda f: _DEPTH / math.sqrt(f.layers))
    logit_scale = real("logit_scale", _LOGITS, lambda f: f.hidden / _BASE)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the scales that are made of others; the code takes 1 for those that are left out."""
        made = {name: value for name, value in fields.items() if name not in ("scale_depth", "dim_model_base")}
        layers, hidden, depth, base = (
            fields.get(name, 1) for name in ("num_hidden_layers", "hidden_size", "scale_depth", "dim_model_base")
        )
        numbers = (layers, hidden, depth, base)
        if all(isinstance(one, (int, float)) and not isinstance(one, bool) and one > 0 for one in numbers):
            made |= {_RESIDUAL: depth / math.sqrt(layers), _LOGITS: hidden / base}
        else:  # an error of the fields' own
            made |= {_RESIDUAL: depth, _LOGITS: base}
        made.setdefault("scale_emb", 1)
        if made.get("mup_denominator") == layers:  # of which the code of other models makes the same
            made.pop("mup_denominator")
        return made

"""The `exaone` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.decoder import Decoder

#: What the code that came with the models calls otherwise than Llama does: fields of config.json.
_RENAMED = {"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps", "activation_function": "hidden_act"}


class Exaone(Decoder):
    """EXAONE 3.0, 3.5 and Deep (arXiv:2408.03541): a Llama whose checkpoints have names of their own, and whose rows of q and k no
    conversion permutes.

    transformers has no class of it: with the `model_type` of EXAONE, LlamaForCausalLM reads these names.
    """

    architecture = "exaone"
    hf_classes = "ExaoneForCausalLM"
    hf_kind = "exaone"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_renamed = {
        "transformer.wte.": "model.embed_tokens.", "transformer.h.": "model.layers.", "transformer.ln_f.": "model.norm.",
        ".attn.attention.": ".self_attn.", ".self_attn.out_proj.": ".self_attn.o_proj.", ".ln_1.": ".input_layernorm.",
        ".ln_2.": ".post_attention_layernorm.", ".mlp.c_fc_0.": ".mlp.gate_proj.", ".mlp.c_fc_1.": ".mlp.up_proj.",
        ".mlp.c_proj.": ".mlp.down_proj.",
    }  # fmt: skip

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Under the names that Llama has for them."""
        return {_RENAMED.get(name, name): value for name, value in fields.items()}

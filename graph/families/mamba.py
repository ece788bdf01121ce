"""The `mamba` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.numbers import flag, number, real
from aprgraph.graph.families.selective_space import SelectiveSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: What the classes take where these fields are left out, and by how many columns of the hidden state the rank is one less.
_EXPAND, _HIDDEN, _COLUMNS_A_RANK = 2, 768, 16
#: What the original's configuration calls fields that the classes have under other names, beside which they do not read them.
_IDLE_FIELDS = ("expand", "d_model", "d_inner", "n_layer", "numb_hidden_layers", "fused_add_norm", "use_mambapy", "use_associative_scan",
                "use_falcon_mambapy")  # fmt: skip


class Mamba(SelectiveSpace):
    """Mamba, Falcon Mamba (arXiv:2312.00752): selective state spaces in all layers, a state and a time step for each column, no attention
    and no feed-forward networks; in Falcon Mamba norms of the time step's projection, of B and of C.
    """

    architecture = "mamba"
    hf_classes = "MambaForCausalLM FalconMambaForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root = "backbone"
    hf_names = {
        **SelectiveSpace.hf_names,
        "embedding": "embeddings", "attn_norm": "norm", "final_norm": "norm_f",
        **{f"ssm_{part}_norm": f"mixer.{part}_layernorm" for part in ("dt", "b", "c")},
    }  # fmt: skip
    #: As the first checkpoints have it.
    hf_renamed = {"backbone.embedding.": "backbone.embeddings."}
    #: No number depends on it, and no config.json says it. Converters write this one.
    context = number("context_length", None, 1 << 20)
    eps = real("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", least=0)
    absent_keys = (*SelectiveSpace.absent_keys, "mixer_rms_eps")
    #: Whether the projection of the time step, B and C are normalised, by norms without weights. Their epsilon GGUF does not say.
    normalises_inputs = flag("ssm.dt_b_c_rms", None, False)
    inputs_eps = real("mixer_rms_eps", "mixer_rms_eps", 1e-6, least=0)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the number of columns and the rank of the time step as the classes make them of the hidden size."""
        made = {name: value for name, value in fields.items() if name not in _IDLE_FIELDS}
        hidden, expand = fields.get("hidden_size", _HIDDEN), fields.get("expand", _EXPAND)
        if "intermediate_size" not in made and isinstance(hidden, int) and isinstance(expand, int):
            made["intermediate_size"] = expand * hidden
        if made.get("time_step_rank", "auto") == "auto" and isinstance(hidden, int):
            made["time_step_rank"] = math.ceil(hidden / _COLUMNS_A_RANK)
        if made.get("rms_norm") is True:
            made.pop("rms_norm")
        return made

    @classmethod
    def inner_of(cls, config: Mapping[str, Any]) -> int:
        """The columns of all heads, by config.json; 0 where it does not say."""
        size = cls.made_fields(config).get("intermediate_size")
        return size if isinstance(size, int) else 0

    def normed(self, g: GraphBuilder, part: str, x: str) -> str:
        """After a norm without weights, in Falcon Mamba."""
        return g.apply(f"ssm_{part}_norm", "rms_norm", x, eps=self.inputs_eps, groups=1) if self.normalises_inputs else x

    def graph(self, g: GraphBuilder) -> str:
        """The whole model: from token ids to the logits of the last position."""
        x = g.embed("embedding", g.embedding_table(self.hidden))
        for _ in g.layers(self.layers):
            x = g.add("post_ffn_residual", x, self.state_space(g, g.norm("attn_norm", x)))
        return g.head("lm_head", g.last(g.norm("final_norm", x)))

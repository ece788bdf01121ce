"""The `mamba2` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.numbers import number, real
from aprgraph.graph.families.state_space import StateSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Mamba2(StateSpace):
    """Mamba 2, Codestral Mamba (arXiv:2405.21060): state spaces in all layers, no attention and no feed-forward networks."""

    architecture = "mamba2"
    hf_classes = "Mamba2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root = "backbone"
    hf_names = {**StateSpace.hf_names, "embedding": "embeddings", "attn_norm": "norm", "final_norm": "norm_f"}
    #: No number depends on it, and no config.json says it. Converters write this one.
    context = number("context_length", None, 1 << 20)
    eps = real("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", least=0)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without what repeats the sizes of the heads."""
        inner, hidden, expand = cls.inner_of(fields), fields.get("hidden_size"), fields.get("expand", 2)
        made = {name: value for name, value in fields.items() if name != "intermediate_size" or value != inner}
        if isinstance(hidden, int) and isinstance(expand, (int, float)) and expand * hidden == inner:
            made.pop("expand", None)
        return made

    def graph(self, g: GraphBuilder) -> str:
        """The whole model: from token ids to the logits of the last position."""
        x = g.embed("embedding", g.embedding_table(self.hidden))
        for _ in g.layers(self.layers):
            x = g.add("post_ffn_residual", x, self.state_space(g, g.norm("attn_norm", x)))
        return g.head("lm_head", g.last(g.norm("final_norm", x)))

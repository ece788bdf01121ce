"""Per-layer embeddings: what every layer is given of the token beside the hidden state (Gemma 3n, 2025)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: The node that holds what all layers are given, side by side.
_INPUTS = "per_layer_inputs"


class PerLayerInputs(Decoder):
    """A decoder with an embedding of each token for every layer, to which a projection of the usual embedding is added."""

    #: The size of what a layer is given, 0 in models without.
    per_layer = number("embedding_length_per_layer_input", "hidden_size_per_layer_input", 0, least=0)
    #: How many tokens have such embeddings, 0 for all.
    per_layer_tokens = number("vocab_size_per_layer_input", "vocab_size_per_layer_input", 0, least=0)
    #: Whether tokens without such an embedding have that of token 0, in models with fewer.
    others_take_first: ClassVar[bool] = False
    gguf_names = {
        "per_layer_embedding": "per_layer_token_embd",
        "per_layer_projection": "per_layer_model_proj",
        "per_layer_projection_norm": "per_layer_proj_norm",
        "per_layer_gate": "inp_gate",
        "per_layer_out": "proj",
        "per_layer_norm": "post_norm",
    }
    hf_names = {
        "per_layer_embedding": "embed_tokens_per_layer",
        "per_layer_projection": "per_layer_model_projection",
        "per_layer_projection_norm": "per_layer_projection_norm",
        "per_layer_gate": "per_layer_input_gate",
        "per_layer_out": "per_layer_projection",
        "per_layer_norm": "post_per_layer_input_norm",
    }
    hf_layer_inputs = {"per_layer_input": "per_layer_input"}

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled by sqrt(E); and what all layers are given."""
        x = g.embed("embedding", table, scale=math.sqrt(self.hidden))
        if self.per_layer:
            self.per_layer_inputs(g, x)
        return x

    def per_layer_inputs(self, g: GraphBuilder, x: str) -> None:
        """What all layers are given, side by side: their embeddings scaled by sqrt(W), and the projection of ``x`` after a norm."""
        count = self.per_layer_tokens or g.vocabulary
        if count > g.vocabulary or (count < g.vocabulary and not self.others_take_first):
            raise UnsupportedModelError(
                f"{self.metadata.path}: {self.named('vocab_size_per_layer_input')} is {self.per_layer_tokens} of "
                f"{g.vocabulary} tokens; supported are embeddings for each layer of all of them"
            )
        columns = self.layers * self.per_layer
        table = g.weight("per_layer_embedding", count, columns)
        how = {"scale": math.sqrt(self.per_layer), "first_for_others": count < g.vocabulary}
        rows = g.inner("per_layer_embedding", "embed", "tokens", table, **how)
        product = g.inner("per_layer_product", "linear", x, g.weight("per_layer_projection", columns, self.hidden))
        scaled = g.inner("per_layer_projection", "scale", product, factor=1 / math.sqrt(self.hidden))
        norm = g.weight("per_layer_projection_norm", self.per_layer)
        normed = g.inner("per_layer_projection_norm", "rms_norm", scaled, norm, eps=self.eps, groups=self.layers)
        g.inner(_INPUTS, "scale", g.inner("per_layer_sum", "add", rows, normed), factor=math.sqrt(0.5))

    def of_the_token(self, g: GraphBuilder, x: str, layer: int) -> str:
        """What a layer adds to its hidden state ``x`` of what it is given of the token."""
        given = g.apply("per_layer_input", "columns", _INPUTS, start=layer * self.per_layer, stop=(layer + 1) * self.per_layer)
        gate = g.inner("per_layer_activated", self.activation, g.linear("per_layer_gate", x, self.per_layer))
        return g.norm("per_layer_norm", g.linear("per_layer_out", g.apply("per_layer_gated", "mul", gate, given), self.hidden))

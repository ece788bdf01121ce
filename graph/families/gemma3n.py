"""The `gemma3n` architecture: the text models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.capped_logits import CappedLogits
from aprgraph.graph.families.laurel import Laurel
from aprgraph.graph.families.numbers import Reading, number, real
from aprgraph.graph.families.per_layer_input import PerLayerInputs
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.shared_keys import SharedKeys
from aprgraph.graph.families.sparse_gate import SparseGates, with_bounds
from aprgraph.graph.families.streams import Streams
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Gemma3n(Streams, PerLayerInputs, Laurel, SparseGates, SharedKeys, CappedLogits):
    """Gemma 3n (Google, 2025): a hidden state of four streams (AltUp), a second residual connection of low rank (LAuReL), gates of
    which a twentieth is left in the first layers, embeddings for each layer, and keys and values that later layers share.

    Tokens without embeddings for each layer, those of images and sounds, have that of token 0 there.
    """

    architecture = "gemma3n"
    hf_classes = "Gemma3nForCausalLM Gemma3nForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {**Streams.gguf_names, **PerLayerInputs.gguf_names, **Laurel.gguf_names}
    hf_names = {
        **Streams.hf_names,
        **PerLayerInputs.hf_names,
        **Laurel.hf_names,
        "v_norm": "self_attn.v_norm",
        "attn_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    }
    hf_layer_inputs = {**PerLayerInputs.hf_layer_inputs, "altup_embedding": "hidden_states"}
    #: Files have these as dims of tensors.
    form_numbers = ("per_layer_tokens", "laurel_rank")
    others_take_first = True
    activation = "gelu"
    rope_base = 1_000_000.0
    windows = Windows(period=5, default=512)
    sliding_rope: Reading[Rope] = Reading(lambda f: read_sliding_rope(f.metadata, f.architecture, f.rope.dims, 10000.0))
    scale = real("attention.scale", None, 1.0)
    per_layer = number("embedding_length_per_layer_input", "hidden_size_per_layer_input")
    logit_cap = real("final_logit_softcapping", "final_logit_softcapping", 30.0, least=0, keep_zero=True)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``with_bounds``."""
        return with_bounds(fields)

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A layer of the active stream between prediction and correction; what it makes of the token goes into the others."""
        predicted = self.predict(g, x)
        x = self.active_of(g, "altup_active", predicted)
        normed = g.norm("attn_norm", x)
        laurel = self.laurel(g, normed)
        x = g.add("post_attn_residual", x, g.norm("attn_post_norm", self.attention(g, normed, layer)))
        x = self.with_laurel(g, x, laurel)
        x = g.add("post_ffn_residual", x, g.norm("ffn_post_norm", self.feed_forward(g, g.norm("ffn_norm", x), layer)))
        corrected = self.correct(g, predicted, x)
        token = self.of_the_token(g, self.scaled(g, corrected), layer)
        return g.apply("altup_out", "stream_add", corrected, token, streams=self.streams, start=1)

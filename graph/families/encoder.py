"""Encoders: stacks of layers whose positions attend to later ones too (Devlin et al. 2018, arXiv:1810.04805)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import flag, real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: The activations by the names that files have for them. llama.cpp takes the first for all that are GELU; older files name none.
_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf", "gelu_python": "gelu_erf"}


def read_activation(family: Family, more: Mapping[str, str] | None = None, default: str = "gelu_new") -> str:
    """The op of the activation that the file names, ``default`` where it names none; ``more`` are others than GELU.

    Raises UnsupportedModelError for one that is not there.
    """
    known, key = {**_ACTIVATIONS, **(more or {})}, family.key("hidden_activation")
    name = family.metadata.text(key, default)
    if name not in known:
        where = f"{family.metadata.path}: {family.metadata.own_name(key)}"
        raise UnsupportedModelError(f"{where} is {shown(name)}; supported are {', '.join(known)}")
    return known[name]


class PostNormEncoder(Decoder):
    """An encoder with a LayerNorm behind each sum, and one of the embedding. Every token is of the first type."""

    hf_root, hf_layers = "", "layers"
    hf_names: ClassVar[Mapping[str, str]] = {
        "embedding": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
    }  # fmt: skip
    gguf_names: ClassVar[Mapping[str, str]] = {
        "embedding_norm": "token_embd_norm",
        "ffn_norm": "attn_output_norm",
        "layer_out_norm": "layer_output_norm",
    }
    norm_op = "layer_norm"
    norm_bias = True
    causal = flag("attention.causal", None, False)
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)

    @property
    def has_head(self) -> bool:
        """There is none."""
        return False

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The token's embedding plus that of its type, normalised."""
        types = g.table("token_types", self.hidden) if g.has("token_types") else None
        return g.norm_embedding("embedding_norm", g.embed_with_types("embedding", table, types))

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention, then a feed-forward network, each added to what it was given, and the sum normalised."""
        x = g.norm("ffn_norm", g.add("post_attn_residual", x, self.attention(g, x, layer)))
        return g.norm("layer_out_norm", g.add("post_ffn_residual", x, self.feed_forward(g, x, layer)))

    def finish(self, g: GraphBuilder, x: str) -> str:
        """A norm has ended the last layer."""
        return x

"""The `bert` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.encoder import PostNormEncoder, read_activation
from aprgraph.graph.families.numbers import REQUIRED, Number, Reading, flag, number
from aprgraph.graph.families.pooling import KEY, Pooling, read_pooling
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_POSITIONS, _POOLER = "position_embedding", "pooler"
#: In checkpoints. Conversion leaves it out, or makes it a classifier's.
_POOLER_NAME = "pooler.dense"


def _pooling(family: Bert) -> Pooling:
    said = read_pooling(family)
    if family.own_pooler and said not in (Pooling.NONE, Pooling.FIRST):
        key = family.metadata.own_name(family.key(KEY))
        raise ModelError(
            f"{family.metadata.path}: {key} is {int(said)}, but BERT's own pooler, which was asked for, reads the first position"
        )
    return Pooling.FIRST if family.own_pooler else said


class Bert(PostNormEncoder, UngatedNetwork):
    """BERT, RoBERTa, XLM-RoBERTa (arXiv:1810.04805): a LayerNorm behind each sum, learnt positions, attention to later ones.

    Every token is of the first type. RoBERTa's checkpoints have rows for positions from the number of the padding on;
    conversion takes those before away.
    """

    architecture = "bert"
    hf_classes = "BertModel RobertaModel XLMRobertaModel"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_layers = "encoder.layer"
    hf_names = {
        **PostNormEncoder.hf_names, _POSITIONS: "embeddings.position_embeddings",
        "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "attn_out": "attention.output.dense",
        "ffn_norm": "attention.output.LayerNorm", "ffn_up": "intermediate.dense", "ffn_out": "output.dense",
        "layer_out_norm": "output.LayerNorm", _POOLER: _POOLER_NAME,
    }  # fmt: skip
    gguf_names = {**PostNormEncoder.gguf_names, _POSITIONS: "position_embd", _POOLER: _POOLER_NAME}
    form_numbers = ("padding", "skips_padding", "activation_op")
    qkv_bias = True
    #: The number of the token of padding, and whether positions count from the one behind it (both of checkpoints alone).
    padding = number("padding_token_id", "pad_token_id", 0, least=0)
    skips_padding = flag("positions_after_padding", None, False)
    #: Whether BERT's own pooler gives the embedding. No file says so: programs for embeddings leave it out.
    own_pooler = flag("pooler", None, False)
    pooling: Reading[Pooling] = Reading(_pooling)
    normalised = flag("pooling_normalize", None, lambda f: not f.own_pooler, given="pooling")
    context: Number[int] = Number(
        lambda f, key, taken: f.metadata.positive(key, taken) - f.skipped, "context_length", "max_position_embeddings", REQUIRED, None
    )
    activation_op: Reading[str] = Reading(read_activation)
    #: As in gpt2: there is none.
    rope: Reading[Rope] = Reading(lambda f: Rope(f.head_size, f.rope_base))

    @property
    def skipped(self) -> int:
        """How many rows of the embeddings of positions no position has."""
        return self.padding + 1 if self.skips_padding else 0

    @classmethod
    def conversions(
        cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight"
    ) -> Mapping[str, Conversion]:  # fmt: skip
        """Without the rows of positions that no position has."""
        if slot == _POSITIONS and config.get("model_type") in ("roberta", "xlm-roberta"):
            return {slot: Conversion(rows=np.arange(config.get("pad_token_id", 1) + 1, config["max_position_embeddings"]))}
        return super().conversions(slot, config, what)

    def rope_angles(self, g: GraphBuilder) -> None:
        """There is no RoPE."""

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """As it is."""
        return x

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The token's embedding plus that of its position and type, normalised."""
        types = g.table("token_types", self.hidden) if g.has("token_types") else None
        positions = g.weight(_POSITIONS, self.context, self.hidden)
        return g.norm_embedding("embedding_norm", g.embed_with_positions("embedding", table, positions, types))

    def behind_pooling(self, g: GraphBuilder, y: str) -> str:
        """A dense layer and tanh, where BERT's own pooler is asked for: transformers' `pooler_output`."""
        if not self.own_pooler:
            return super().behind_pooling(g, y)
        return g.apply("pooled_down_act", "tanh", g.linear("pooled_down", y, self.hidden, slot=_POOLER))

    @property
    def unused_tensors(self) -> Mapping[str, str]:
        """See ``Family.unused_tensors``."""
        own = {} if self.own_pooler else dict.fromkeys((f"{_POOLER_NAME}.weight", f"{_POOLER_NAME}.bias"), "of a classifier")
        return {**super().unused_tensors, **own}

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """GELU by erf, or by tanh in GGUF files."""
        return g.apply("ffn_swigl", self.activation_op, up)

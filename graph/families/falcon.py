"""The `falcon` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aprgraph.graph.families.encoder import read_activation
from aprgraph.graph.families.fused_heads import FusedByHead
from aprgraph.graph.families.numbers import Reading, number, per_layer, real
from aprgraph.graph.families.parallel import ParallelBlock
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.conversion import Indices

#: What the code that came with the first checkpoints calls fields of the class.
_RENAMED = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_head_kv": "num_kv_heads", "n_embed": "hidden_size"}
#: The ``model_type`` of those of them that have KV groups.
_GROUPED = "RefinedWeb"
_NORMS = "num_ln_in_parallel_attn"
_KV_HEADS = "num_kv_heads"
_TWO = 2


class Falcon(FusedByHead, ParallelBlock, UngatedNetwork):
    """Falcon 7B, 40B and 180B, Falcon 2 11B (arXiv:2311.16867): attention and network side by side behind one LayerNorm, or each behind
    one of its own, q, k and v as one tensor.

    Falcon 7B has one head of k and of v for all of q. Checkpoints have the query heads of each KV head with it.
    """

    architecture = "falcon"
    hf_classes = "FalconForCausalLM RWForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root, hf_layers = "transformer", "h"
    #: Where there are two norms, GGUF has the network's under the name of the only one.
    hf_names = {
        "embedding": "word_embeddings", "final_norm": "ln_f", "attn_norm": "input_layernorm", "attn_norm_2": "ln_attn",
        "qkv_matmul": "self_attention.query_key_value", "attn_out": "self_attention.dense", "ffn_up": "mlp.dense_h_to_4h",
        "ffn_out": "mlp.dense_4h_to_h",
    }  # fmt: skip
    hf_renamed = {".ln_mlp.": ".input_layernorm."}
    absent_keys = ("rope.freq_base",)
    form_numbers = ("activation_op", "norms")
    norm_op = "layer_norm"
    norm_bias = True
    kv_heads = per_layer("attention.head_count_kv", _KV_HEADS, lambda f: f.heads)
    ffn = per_layer("feed_forward_length", "ffn_hidden_size", lambda f: 4 * f.hidden)
    eps = real("attention.layer_norm_epsilon", "layer_norm_epsilon", least=0)
    #: How many norms a layer has; 0 where the tensors alone tell, as in GGUF files.
    norms = number(_NORMS, _NORMS, 0, least=0, most=_TWO)
    activation_op: Reading[str] = Reading(read_activation)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the KV heads and norms that the class has in place of what it makes them of, by the class's names."""
        made = {_RENAMED.get(name, name): value for name, value in fields.items() if value is not None or name not in _RENAMED}
        made.pop("bias", None)  # the tensors tell
        is_grouped = made.pop("new_decoder_architecture", fields.get("model_type") == _GROUPED)
        is_single = made.pop("multi_query", True)
        if not is_grouped:
            made.pop(_KV_HEADS, None)
            made |= {_KV_HEADS: 1} if is_single else {}
            made[_NORMS] = 1
        else:
            made[_NORMS] = _TWO if made.get(_NORMS) is None else made[_NORMS]
        if is_grouped or made.get("parallel_attn") is True:
            made.pop("parallel_attn", None)
        return made

    @classmethod
    def column_order(cls, stage: str, config: Mapping[str, Any]) -> Indices | None:
        """The query heads of each KV head, then its heads of k and of v, as those of all heads."""
        made = cls.made_fields(config)
        heads, hidden = made.get("num_attention_heads"), made.get("hidden_size")
        groups = made.get(_KV_HEADS) or heads
        if stage not in ("qkv_matmul", "qkv_bias") or not all(isinstance(one, int) and one > 0 for one in (heads, hidden, groups)):
            return None
        assert isinstance(heads, int)
        assert isinstance(hidden, int)
        assert isinstance(groups, int)
        size, share = hidden // heads, heads // groups
        rows = np.arange(groups * (share + 2) * size).reshape(groups, share + 2, size)
        return np.concatenate([part.reshape(-1) for part in (rows[:, :share], rows[:, share], rows[:, share + 1])])

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Both read one norm of what the layer is given, or each its own."""
        if self.norms != _TWO and (self.norms or not g.has("attn_norm_2")):
            return super().layer(g, x, layer)
        attention = self.attention(g, g.norm("attn_norm", x, slot="attn_norm_2"), layer)
        network = self.feed_forward(g, g.norm("ffn_norm", x, slot="attn_norm"), layer)
        return g.add("post_ffn_residual", x, g.inner("parallel_sum", "add", attention, network))

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """GELU by erf, or by tanh in GGUF files."""
        return g.apply("ffn_swigl", self.activation_op, up)

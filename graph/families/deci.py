"""The `deci` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import per_layer
from aprgraph.graph.metadata import ListValue

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_BLOCKS, _ATTENTION, _NETWORK = "block_configs", "attention", "ffn"
_HEADS, _KV_HEADS, _FFN, _LAYERS = "num_attention_heads", "num_key_value_heads", "intermediate_size", "num_hidden_layers"
#: What DeciLM 7B has in place of the number of KV heads.
_OWN_KV_HEADS = "num_key_value_heads_per_layer"
#: Sizes of networks are the next multiples of this.
_UNIT = 256
#: What a part of a layer may say: it is not there, or one matrix, or how large it is.
_NONE, _LINEAR, _GROUP, _TIMES = "no_op", "replace_with_linear", "n_heads_in_group", "ffn_mult"


class Deci(Decoder):
    """Llama Nemotron Super 49B, Ultra 253B and 51B (arXiv:2505.00949), DeciLM 7B: a Llama whose layers differ, found by a search: in KV
    heads, in the size of the network, without either, or with one matrix in place of attention.

    Checkpoints are of the code that came with them: transformers has no class of it. llama.cpp leaves attention out in layers without a
    network, of which published models have none.
    """

    architecture = "deci"
    hf_classes = "DeciLMForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    pairing = "interleaved"
    hf_renamed = {"self_attn.linear_attn.": "self_attn.o_proj."}
    heads = per_layer("attention.head_count", _HEADS, least=0)
    kv_heads = per_layer("attention.head_count_kv", _KV_HEADS, lambda f: f.heads, least=0)
    ffn = per_layer("feed_forward_length", _FFN, least=0)

    @classmethod
    def small_numbers(cls, numbers: Mapping[str, Any]) -> Mapping[str, object]:
        """As a whole layer, one without attention, and one with a matrix in its place, in turn."""
        layers, heads, kv_heads = (numbers[key] for key in ("block_count", "attention.head_count", "attention.head_count_kv"))
        return {
            "attention.head_count": ListValue([heads * (layer % 3 != 1) for layer in range(layers)]),
            "attention.head_count_kv": ListValue([kv_heads * (layer % 3 == 0) for layer in range(layers)]),
        }

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the numbers of heads and the sizes of networks of all layers, which `block_configs` says.

        Raises ModelError or UnsupportedModelError for what it cannot say.
        """
        made = {name: value for name, value in fields.items() if name != _BLOCKS and not (value is None and name in (_KV_HEADS, _FFN))}
        if _OWN_KV_HEADS in made:
            made[_KV_HEADS] = made.pop(_OWN_KV_HEADS)
        blocks, heads, hidden = (fields.get(name) for name in (_BLOCKS, _HEADS, "hidden_size"))
        if blocks is None or type(heads) is not int or type(hidden) is not int:  # an error of the numbers' own
            return made
        sizes = []
        for block in blocks if isinstance(blocks, list) else [blocks]:
            attention, network = (block.get(part) if isinstance(block, dict) else None for part in (_ATTENTION, _NETWORK))
            if not isinstance(attention, dict) or not isinstance(network, dict):
                raise ModelError(
                    f"config.json: {_BLOCKS} holds {shown(block)}, expected {_ATTENTION} and {_NETWORK} of each layer; correct it"
                )
            sizes.append((*_heads(attention, heads), _size(network, hidden)))
        if len(sizes) != made.get(_LAYERS, len(sizes)):
            raise ModelError(f"config.json: {_BLOCKS} are {len(sizes)}, but {_LAYERS} is {made[_LAYERS]}; correct it")
        if made.get("head_dim") is None and heads > 0:
            made["head_dim"] = hidden // heads
        return made | {
            _LAYERS: len(sizes),
            **{name: [one[place] for one in sizes] for place, name in enumerate((_HEADS, _KV_HEADS, _FFN))},
        }

    def default_head_size(self) -> int:
        """The hidden size divided by the number of heads of layers that have some. Raises ModelError if that is not a whole number."""
        heads = max(*self.heads, 1)
        if self.hidden % heads:
            raise ModelError(
                f"{self.metadata.path}: {self.named('embedding_length')} {self.hidden} is not a multiple of "
                f"{self.named('attention.head_count')} {heads}"
            )
        return self.hidden // heads

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention and a network, or those of them that the layer has; what it gives is `post_ffn_residual` in any case."""
        has_network = self.ffn[layer] > 0
        if self.heads[layer]:
            normed = g.norm("attn_norm", x)
            part = self.attention(g, normed, layer) if self.kv_heads[layer] else g.linear("attn_out", normed, self.hidden)
            x = g.add("post_attn_residual" if has_network else "post_ffn_residual", x, part)
        if has_network:
            return g.add("post_ffn_residual", x, self.feed_forward(g, g.norm("ffn_norm", x), layer))
        return x if self.heads[layer] else g.apply("post_ffn_residual", "scale", x, factor=1.0)


def _heads(attention: Mapping[str, Any], heads: int) -> tuple[int, int]:
    """The query heads and KV heads of a layer: none without attention, no KV heads with a matrix in its place."""
    _refuse_others(attention, _ATTENTION, (_GROUP, _NONE, _LINEAR))
    group = attention.get(_GROUP)
    if attention.get(_LINEAR):
        return heads, 0
    if attention.get(_NONE) or group is None:
        return 0, 0
    if type(group) is not int or group < 1 or heads % group:
        raise ModelError(f"config.json: {_BLOCKS}: {_GROUP} is {shown(group)}, of {heads} heads; expected a number that divides them")
    return heads, heads // group


def _size(network: Mapping[str, Any], hidden: int) -> int:
    """The size of a layer's network, 0 for none."""
    _refuse_others(network, _NETWORK, (_TIMES, _NONE))
    times = network.get(_TIMES)
    if network.get(_NONE) or times is None:
        return 0
    if not isinstance(times, (int, float)) or isinstance(times, bool) or not 0 < times < 1 << 16:
        raise ModelError(f"config.json: {_BLOCKS}: {_TIMES} is {shown(times)}, expected a positive number")
    return -(-int(2 * times * hidden / 3) // _UNIT) * _UNIT


def _refuse_others(part: Mapping[str, Any], what: str, known: tuple[str, ...]) -> None:
    name = next((one for one, value in part.items() if one not in known and value), None)
    if name is not None:
        raise UnsupportedModelError(
            f"config.json: {_BLOCKS}: {name} of {what} is {shown(part[name])}, which is not there yet; supported are {', '.join(known)}"
        )

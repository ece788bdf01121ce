"""The `bitnet` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.encoder import read_activation
from aprgraph.graph.families.numbers import Reading

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: Names of the activations that there are models with.
_ACTIVATIONS = {"silu": "silu", "relu2": "relu_squared"}


class Bitnet(Decoder):
    """BitNet b1.58 2B4T (arXiv:2504.12285): a Llama with norms before the output projection of attention and before the down projection,
    and a squared ReLU; its matrices are of -1, 0 and 1 times a scale.

    GGUF files do not say the activation: it is SiLU there, as llama.cpp takes it and the first models (arXiv:2402.17764) have it. Models
    are trained with inputs of projections that are rounded to 8 bits, which is not done here.
    """

    architecture = "bitnet"
    hf_classes = "BitNetForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    hf_names = {"attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm"}
    activation_op: Reading[str] = Reading(lambda f: read_activation(f, _ACTIVATIONS, "silu"))

    def attend(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The heads as one row, after its norm."""
        return g.norm("attn_sub_norm", super().attend(g, x, layer))

    def down(self, g: GraphBuilder, gate: str, up: str, slot: str = "ffn_out") -> str:
        """The down projection of the norm of act(gate) · up."""
        product = g.apply("ffn_swigl", "mul", g.apply("ffn_silu", self.activation_op, gate), up)
        return g.linear("ffn_out", g.norm("ffn_sub_norm", product), self.hidden, slot=slot)

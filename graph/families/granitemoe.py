"""The `granitemoe` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.granite import Granite
from aprgraph.graph.families.numbers import number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: How many experts the classes take where config.json leaves them out.
_EXPERTS = 8
#: The slot of gate and up in one, which no GGUF file has.
_JOINED = "shared_gate_up"
_BOTH, _OUT = "shared_mlp.input_linear", "shared_mlp.output_linear"


class GraniteExperts(Granite):
    """Granite with experts, perhaps beside a shared one, or with that network alone."""

    hf_names = {
        _JOINED: _BOTH,
        "shared_out": _OUT,
        **dict.fromkeys(("shared_gate", "shared_up", "ffn_gate", "ffn_up"), _BOTH),
        "ffn_out": _OUT,
        "moe_router_logits": "block_sparse_moe.router",
        **dict.fromkeys(("moe_expert_gate", "moe_expert_up", "moe_expert_out"), "block_sparse_moe.experts"),
    }
    #: The size of the shared network that the class takes where config.json leaves it out.
    hf_shared: ClassVar[int] = 0
    shared_ffn = number("expert_shared_feed_forward_length", "shared_intermediate_size", 0, least=0)

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has gate and up apart, and the one network of a model without experts is not called shared."""
        prefix = "shared" if config.get("num_local_experts", _EXPERTS) else "ffn"
        if slot == "shared_out":
            return {f"{prefix}_out": Conversion()}
        size = config.get("shared_intermediate_size", cls.hf_shared)
        if slot == _JOINED and isinstance(size, int):
            return {f"{prefix}_{part}": Conversion(np.arange(size) + start) for part, start in (("gate", 0), ("up", size))}
        return super().conversions(slot, config, what)

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """The gate projection and the up projection, in transformers of one weight."""
        return g.gate_and_up_in_one(x, self.ffn[layer], _JOINED) if g.has(_JOINED) else super().gate_and_up(g, x, layer)

    def shared_expert(self, g: GraphBuilder, x: str) -> str:
        """The output of the expert that every position uses."""
        if not g.has(_JOINED):
            return super().shared_expert(g, x)
        return self.down(g, *g.gate_and_up_in_one(x, self.shared_ffn, _JOINED), slot="shared_out")


class GraniteMoe(GraniteExperts):
    """Granite 3 mixtures of experts (IBM, 2024): Granite with experts in every layer, perhaps beside a shared one.

    Granite 4's mixtures without recurrent layers are converted under this name.
    """

    architecture = "granitemoe"
    hf_classes = "GraniteMoeForCausalLM GraniteMoeSharedForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    experts = number("expert_count", "num_local_experts", most=1 << 16)

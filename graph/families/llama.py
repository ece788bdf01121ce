"""The `llama` architecture of GGUF, under whose name many models are converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.window import CheckpointWindows

if TYPE_CHECKING:
    from aprgraph.graph.families.base import Order


class Llama(Mixture):
    """Llama 2 and 3, Mistral, Mixtral, SmolLM2 (arXiv:2302.13971): conversion permutes q and k, so that RoPE pairs
    neighbours.

    Llama 3.1's RoPE scaling comes as the tensor `rope_freqs.weight`; Mixtral's experts (arXiv:2401.04088) come under
    the same name as the dense models.
    """

    architecture = "llama"
    hf_classes = "LlamaForCausalLM MistralForCausalLM MixtralForCausalLM LlamaModel MistralModel"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    pairing: ClassVar[Order] = "interleaved"
    windows = CheckpointWindows()
    experts = number("expert_count", "num_local_experts", 0, least=0, most=1 << 16)

    def default_expert_ffn(self) -> int:
        """In Mixtral, an expert is as large as the dense network."""
        return self.ffn[0]

"""The `llama` architecture of GGUF: Llama 2 and 3, Mistral, Mixtral, SmolLM and others converted under that name.

Conversion to GGUF permutes the rows of q and k, so RoPE pairs neighbours. Llama 3.1's RoPE scaling comes as the tensor
`rope_freqs.weight`; Mixtral's experts (arXiv:2401.04088) come under the same name as the dense models.
"""

from aprgraph.graph.families.base import Experts, Family

LLAMA = Family(
    "llama", "Llama 2 and 3, Mistral, Mixtral, SmolLM2", rope_pairing="interleaved", experts=Experts(normalise=True, optional=True)
)

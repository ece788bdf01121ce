"""The `llama` architecture of GGUF: Llama 2 and 3, Mistral, SmolLM and others converted under that name.

Conversion to GGUF permutes the rows of q and k, so RoPE pairs neighbours.
"""

from aprgraph.graph.families.base import Family

LLAMA = Family("llama", "Llama 2 and 3, Mistral, SmolLM2", rope_pairing="interleaved")

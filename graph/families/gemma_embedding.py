"""The `gemma-embedding` architecture."""

from __future__ import annotations

from aprgraph.graph.families.gemma3 import Gemma3
from aprgraph.graph.families.numbers import flag


class GemmaEmbedding(Gemma3):
    """EmbeddingGemma (arXiv:2509.20354): Gemma 3 whose positions attend to later ones, with windows to both sides, pooled.

    Two dense layers follow the pooling, where the file has them.
    """

    architecture = "gemma-embedding"
    hf_classes = "Gemma3TextModel"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    symmetric_windows = True
    causal = flag("attention.causal", None, False)

    @property
    def has_head(self) -> bool:
        """There is none."""
        return False

"""The `gemma3` architecture: the text models of Gemma 3 (arXiv:2503.19786).

Five layers with a sliding window to one that sees everything, each kind with its own base of RoPE. The file's norms hold
1 + weight already.
"""

import math

from aprgraph.graph.families.base import Family, Sizes, SlidingWindow, scale_by_head_size


def _attention_scale(sizes: Sizes) -> float:
    """The 27B model (62 layers) divides by sqrt(E / H), not by the head size; its file does not say so."""
    return 1.0 / math.sqrt(sizes.hidden // sizes.heads) if sizes.layers == 62 else scale_by_head_size(sizes)


GEMMA3 = Family(
    "gemma3",
    "Gemma 3",
    rope_pairing="halves",
    rope_base=1_000_000.0,
    activation="gelu",
    qk_norm=True,
    post_norms=True,
    scaled_embedding=True,
    window=SlidingWindow(period=6, rope_base=10000.0),
    attention_scale=_attention_scale,
)

"""The `arcee` architecture."""

from __future__ import annotations

from aprgraph.graph.families.ungated import UngatedNetwork


class Arcee(UngatedNetwork):
    """AFM 4.5B (Arcee AI, 2025): a Llama whose feed-forward network has no gate, and a squared ReLU."""

    architecture = "arcee"
    hf_classes = "ArceeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    activation = "relu_squared"

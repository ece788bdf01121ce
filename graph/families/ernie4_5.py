"""The `ernie4_5` architecture: the dense models."""

from aprgraph.graph.families.decoder import Decoder


class Ernie45(Decoder):
    """ERNIE 4.5, dense (Baidu, 2025): a Llama whose RoPE pairs neighbours in checkpoints too."""

    architecture = "ernie4_5"
    hf_classes = "Ernie4_5ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = hf_pairing = "interleaved"

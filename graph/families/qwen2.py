"""The `qwen2` architecture."""

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.window import CheckpointWindows


class Qwen2(Decoder):
    """Qwen 1.5 to 2.5, and distillations into it (arXiv:2407.10671): q, k and v have biases."""

    architecture = "qwen2"
    hf_classes = "Qwen2ForCausalLM Qwen2Model"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    qkv_bias = True
    windows = CheckpointWindows()

"""The `seed_oss` architecture."""

from aprgraph.graph.families.qwen2 import Qwen2


class SeedOss(Qwen2):
    """Seed-OSS 36B (ByteDance, 2025): biases of q, k and v as in Qwen 2, and heads that are wider than hidden / heads."""

    architecture = "seed_oss"
    hf_classes = "SeedOssForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"ffn_norm": "post_attention_norm"}

"""The name of each weight in a GGUF file and in a checkpoint of Hugging Face transformers.

The slot of a weight is named after the stage that reads it. A family that has another name for a slot declares only
that name, in ``gguf_names`` or ``hf_names``.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Slot to name in GGUF, without `blk.<layer>.` in front and `.weight` behind. A slot that is not here bears its own
#: name.
GGUF_NAMES: Mapping[str, str] = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
    "qkv_matmul": "attn_qkv",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "q_a": "attn_q_a",
    "q_a_norm": "attn_q_a_norm",
    "q_b": "attn_q_b",
    "kv_a": "attn_kv_a_mqa",
    "kv_a_norm": "attn_kv_a_norm",
    "kv_b": "attn_kv_b",
    "k_b": "attn_k_b",
    "v_b": "attn_v_b",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attn_out": "attn_output",
    "attn_post_norm": "post_attention_norm",
    "ffn_gate_up": "ffn_up",
    "ffn_out": "ffn_down",
    "ffn_post_norm": "post_ffw_norm",
    "moe_router_logits": "ffn_gate_inp",
    "moe_expert_gate": "ffn_gate_exps",
    "moe_expert_up": "ffn_up_exps",
    "moe_expert_gate_up": "ffn_gate_up_exps",
    "moe_expert_out": "ffn_down_exps",
    "shared_gate": "ffn_gate_shexp",
    "shared_up": "ffn_up_shexp",
    "shared_out": "ffn_down_shexp",
    "shared_gate_logit": "ffn_gate_inp_shexp",
}

#: Names in GGUF that have no `.weight` behind.
WITHOUT_END = frozenset(("ssm_a", "ssm_d", "ffn_gate_inp.scale", "ffn_down_exps.scale"))

#: Slot to the module that holds the weight in transformers, from the decoder on, or from the layer on.
HF_NAMES: Mapping[str, str] = {
    "embedding": "embed_tokens",
    "final_norm": "norm",
    "lm_head": "lm_head",
    "attn_norm": "input_layernorm",
    "qkv_matmul": "self_attn.qkv_proj",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_a": "self_attn.q_a_proj",
    "q_a_norm": "self_attn.q_a_layernorm",
    "q_b": "self_attn.q_b_proj",
    "kv_a": "self_attn.kv_a_proj_with_mqa",
    "kv_a_norm": "self_attn.kv_a_layernorm",
    "kv_b": "self_attn.kv_b_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attn_out": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_gate_up": "mlp.gate_up_proj",
    "ffn_out": "mlp.down_proj",
    "moe_router_logits": "mlp.gate",
    "moe_expert_gate": "mlp.experts",
    "moe_expert_up": "mlp.experts",
    "moe_expert_out": "mlp.experts",
    "shared_gate": "mlp.shared_expert.gate_proj",
    "shared_up": "mlp.shared_expert.up_proj",
    "shared_out": "mlp.shared_expert.down_proj",
    "shared_gate_logit": "mlp.shared_expert_gate",
}

"""What transformers takes for a field that a config.json leaves out, where a family here would take something else.

By ``model_type``; from the configuration classes of transformers 5.24. Sizes that no file leaves out are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA: dict[str, Any] = {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096}
_SMALL_EPS: dict[str, Any] = {"rms_norm_eps": 1e-6}
_QWEN_VL: dict[str, Any] = {
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6, "max_window_layers": 80,
}  # fmt: skip
_COHERE: dict[str, Any] = {"tie_word_embeddings": True, "layer_norm_eps": 1e-5, "max_position_embeddings": 8192, "logit_scale": 0.0625}
_LFM: dict[str, Any] = {
    "tie_word_embeddings": True, "max_position_embeddings": 128000, "norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6,
    "conv_L_cache": 3,
}  # fmt: skip

_BERT: dict[str, Any] = {
    "tie_word_embeddings": True, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
}  # fmt: skip

_QWEN_3_5: dict[str, Any] = _SMALL_EPS | {
    "max_position_embeddings": 32768, "head_dim": 256, "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip

_MAMBA: dict[str, Any] = {
    "tie_word_embeddings": True, "hidden_size": 768, "num_hidden_layers": 32, "layer_norm_epsilon": 1e-5, "state_size": 16,
    "conv_kernel": 4,
}  # fmt: skip

CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _SMALL_EPS | {"max_position_embeddings": 2048},
    "mistral": _SMALL_EPS | {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
                "num_experts_per_tok": 2, "num_local_experts": 8},
    "qwen2": _SMALL_EPS | {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen2_moe": _SMALL_EPS | {"intermediate_size": 5632, "max_position_embeddings": 32768, "num_key_value_heads": 16,
                               "norm_topk_prob": False, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                               "shared_expert_intermediate_size": 5632},
    "qwen3": _SMALL_EPS | {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": _SMALL_EPS | {"intermediate_size": 6144, "max_position_embeddings": 32768, "num_key_value_heads": 4,
                               "norm_topk_prob": False, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                               "rope_theta": 10000.0},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), _QWEN_VL),
    "qwen3_vl_text": _SMALL_EPS | {"max_position_embeddings": 128000, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 500000.0},
    "qwen3_vl_moe_text": _SMALL_EPS | {"max_position_embeddings": 128000, "num_key_value_heads": 16, "rope_theta": 500000.0,
                                       "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408},
    "qwen3_next": _SMALL_EPS | {"intermediate_size": 5632, "max_position_embeddings": 32768, "num_key_value_heads": 2, "head_dim": 256,
                                "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
                                "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                                "norm_topk_prob": True, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
                                "shared_expert_intermediate_size": 512},
    "qwen3_5_text": _QWEN_3_5 | {"intermediate_size": 12288, "num_key_value_heads": 4},
    "qwen3_5_moe_text": _QWEN_3_5 | {"num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
                                     "shared_expert_intermediate_size": 512},
    "gemma": _SMALL_EPS | {"tie_word_embeddings": True, "max_position_embeddings": 8192, "num_key_value_heads": 16, "head_dim": 256},
    "gemma2": _GEMMA | {"max_position_embeddings": 8192, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    "gemma3_text": _GEMMA | {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                             "rope_theta": 1e6, "rope_local_base_freq": 10000.0},
    "gemma3n_text": _SMALL_EPS | {"tie_word_embeddings": True, "max_position_embeddings": 32768, "num_attention_heads": 8,
                                  "num_key_value_heads": 2, "head_dim": 256, "sliding_window": 512, "rope_theta": 1e6,
                                  "rope_local_base_freq": 10000.0, "hidden_size_per_layer_input": 256,
                                  "vocab_size_per_layer_input": 262144, "num_kv_shared_layers": 15, "final_logit_softcapping": 30.0},
    "gemma4_text": _SMALL_EPS | {"tie_word_embeddings": True, "max_position_embeddings": 131072, "num_attention_heads": 8,
                                 "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 512, "hidden_size_per_layer_input": 256},
    "phi3": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "phimoe": {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6,
               "num_local_experts": 16, "num_experts_per_tok": 2, "router_jitter_noise": 0.01},
    "olmo2": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    "olmo3": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 500000.0},
    "olmoe": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False},
    **dict.fromkeys(("granitemoe", "granitemoeshared"), _SMALL_EPS | {
        "max_position_embeddings": 2048, "attention_multiplier": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2,
    }),
    "granite": _SMALL_EPS | {"max_position_embeddings": 2048, "attention_multiplier": 1.0},
    "glm": {"max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "num_key_value_heads": 2, "head_dim": 128,
            "partial_rotary_factor": 0.5},
    "glm4": {"max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "num_key_value_heads": 2, "head_dim": 128,
             "partial_rotary_factor": 0.5},
    "glm4_moe": {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "partial_rotary_factor": 0.5,
                 "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128, "first_k_dense_replace": 1,
                 "moe_intermediate_size": 1408, "norm_topk_prob": True},
    "dots1": _SMALL_EPS | {"max_position_embeddings": 2048, "num_key_value_heads": 32, "moe_intermediate_size": 1408,
                           "first_k_dense_replace": 0, "norm_topk_prob": False, "sliding_window": 4096, "max_window_layers": 62},
    "exaone_moe": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_key_value_heads": 32, "sliding_window": 4096,
                   "num_experts": 64, "num_experts_per_tok": 8, "num_shared_experts": 1, "moe_intermediate_size": 1024,
                   "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
    "afmoe": {"max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": 1024, "num_dense_layers": 1,
              "num_experts": 64, "num_experts_per_tok": 6, "num_shared_experts": 2, "moe_intermediate_size": 1408, "mup_enabled": False},
    "mimo_v2_flash": {"max_position_embeddings": 131072, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "head_dim": 192, "v_head_dim": 128,
                      "sliding_window": 129, "attention_value_scale": 0.707, "n_routed_experts": 256, "num_experts_per_tok": 8,
                      "moe_intermediate_size": 2048, "norm_topk_prob": True},
    "bitnet": {"max_position_embeddings": 2048, "num_key_value_heads": 5, "rms_norm_eps": 1e-5, "hidden_act": "relu2",
               "rope_theta": 500000.0},
    "minimax_m2": _SMALL_EPS | {"max_position_embeddings": 196608, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 5e6,
                                "num_local_experts": 256, "num_experts_per_tok": 8},
    "deepseek_v2": _SMALL_EPS | {"max_position_embeddings": 2048, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                                 "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
                                 "moe_intermediate_size": 1407},
    "deepseek_v3": _SMALL_EPS | {"max_position_embeddings": 4096, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                                 "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
                                 "moe_intermediate_size": 2048, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
                                 "first_k_dense_replace": 3, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
    "glm4_moe_lite": {"max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "kv_lora_rank": 512, "q_lora_rank": 768,
                      "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64, "n_shared_experts": 1,
                      "moe_intermediate_size": 1536, "num_experts_per_tok": 4, "norm_topk_prob": True, "routed_scaling_factor": 1.8,
                      "first_k_dense_replace": 1},
    "llama4_text": {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": 128,
                    "rope_theta": 500000.0, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16,
                    "num_experts_per_tok": 1, "use_qk_norm": True, "attention_chunk_size": 8192},
    "arcee": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "ernie4_5_moe": {"tie_word_embeddings": True, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 4,
                     "rope_theta": 500000.0, "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2, "moe_intermediate_size": 1536,
                     "moe_layer_start_index": 1},
    "hunyuan_v1_dense": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    "hunyuan_v1_moe": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_experts": 1, "moe_topk": 1},
    "apertus": {"max_position_embeddings": 65536, "rms_norm_eps": 1e-5},
    "starcoder2": {"tie_word_embeddings": True, "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "num_key_value_heads": 2},
    "stablelm": {"max_position_embeddings": 4096, "layer_norm_eps": 1e-5, "num_key_value_heads": 32, "partial_rotary_factor": 0.25},
    "phi": {"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    **dict.fromkeys(("roberta", "xlm-roberta"), _BERT | {"pad_token_id": 1}),
    "bert": _BERT | {"pad_token_id": 0},
    "nomic_bert": _BERT | {"hidden_act": "silu", "max_position_embeddings": 2048, "rope_theta": 1000.0},
    "modernbert": {"tie_word_embeddings": True, "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
                   "intermediate_size": 1152, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
                   "sliding_window": 128},
    "gpt_neox": {"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "hidden_act": "gelu"},
    "gpt2": {"tie_word_embeddings": True, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": 1e-5},
    "gpt_bigcode": {"tie_word_embeddings": True, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
                    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_pytorch_tanh"},
    "nemotron": {"max_position_embeddings": 4096, "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    "gpt_oss": {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": 64,
                "sliding_window": 128, "num_local_experts": 128, "num_experts_per_tok": 4, "rope_theta": 150000.0},
    "ministral3": {"max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": 128},
    "smollm3": _SMALL_EPS | {"tie_word_embeddings": True, "max_position_embeddings": 32768, "num_key_value_heads": 4, "rope_theta": 2e6},
    "cohere": _COHERE | {"rope_theta": 500000.0},
    "cohere2": _COHERE | {"sliding_window": 4096},
    "exaone": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 500000.0},
    "exaone4": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_key_value_heads": 32, "sliding_window": 4096},
    "seed_oss": _SMALL_EPS | {"max_position_embeddings": 524288, "num_key_value_heads": 8, "head_dim": 128},
    "lfm2": _LFM,
    "lfm2_moe": _LFM | {"num_dense_layers": 2, "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1792,
                        "intermediate_size": 7168, "norm_topk_prob": True},
    "granitemoehybrid": _SMALL_EPS | {"max_position_embeddings": 2048, "attention_multiplier": 1.0, "num_local_experts": 8,
                                      "num_experts_per_tok": 2, "shared_intermediate_size": 1024, "mamba_n_heads": 128,
                                      "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4},
    "minicpm": {"tie_word_embeddings": True},
    "minicpm3": {"tie_word_embeddings": True, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "kv_lora_rank": 256,
                 "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32},
    "dbrx": {"max_position_embeddings": 2048},
    "olmo": {"max_position_embeddings": 2048},
    "jais2": {"max_position_embeddings": 8192, "layer_norm_eps": 1e-5},
    "nemotron_h": {"layer_norm_epsilon": 1e-5, "num_attention_heads": 32, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64,
                   "ssm_state_size": 128, "conv_kernel": 4, "n_groups": 8},
    "falcon": {"tie_word_embeddings": True, "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5, "activation": "gelu"},
    "falcon_h1": {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "mamba_d_ssm": 1024,
                  "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4},
    "mamba": _MAMBA,
    "jamba": _SMALL_EPS | {"max_position_embeddings": 262144, "num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 2,
                           "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2},
    "falcon_mamba": _MAMBA | {"mixer_rms_eps": 1e-6},
    "mamba2": {"layer_norm_epsilon": 1e-5, "num_heads": 128, "head_dim": 64, "state_size": 128, "conv_kernel": 4, "n_groups": 8},
    "ernie4_5": {"tie_word_embeddings": True, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 2,
                 "head_dim": 128, "rope_theta": 500000.0},
}  # fmt: skip

#: What a class does that no field says, by GGUF's key: how it makes weights of experts' scores, 1 by softmax and 2 by sigmoids.
CLASS_KEYS: Mapping[str, Mapping[str, Any]] = {
    "roberta": {"positions_after_padding": True}, "xlm-roberta": {"positions_after_padding": True},
    "mamba": {"ssm.dt_b_c_rms": False}, "falcon_mamba": {"ssm.dt_b_c_rms": True},
    "deepseek_v2": {"expert_gating_func": 1}, "deepseek_v3": {"expert_gating_func": 2}, "glm4_moe_lite": {"expert_gating_func": 2},
}  # fmt: skip

#: What `rope_parameters` is where there is none.
CLASS_ROPE: Mapping[str, Mapping[str, Any]] = {
    "gemma4_text": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}},
    "apertus": {"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "gpt_oss": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096},
    "ministral3": {"type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0,
                   "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1},
}  # fmt: skip

#: The context before RoPE was stretched, of classes that have it beside the other sizes.
CLASS_CONTEXT: Mapping[str, int] = {"phi3": 4096}

#: Fields that name one thing: the one that families declare, and what other versions of transformers write.
ALIASES: Mapping[str, str] = {
    "num_experts": "num_local_experts", "num_local_experts": "num_experts", "first_k_dense_replace": "mlp_layer_types",
    "mlp_layer_types": "first_k_dense_replace",
}  # fmt: skip

#: Fields on which no number of a text depends: training, bookkeeping, special tokens, and what the tensors tell.
_HARMLESS = """
    architectures model_type transformers_version torch_dtype dtype _name_or_path name_or_path auto_map use_cache
    initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop dropout classifier_dropout
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id
    decoder_start_token_id tie_word_embeddings tie_encoder_decoder vocab_size attention_bias mlp_bias qkv_bias use_bias
    pretraining_tp output_router_logits router_aux_loss_coef router_jitter_noise
    _attn_implementation attn_implementation _attn_implementation_autoset _flash_attn_2_enabled
    _experts_implementation experts_implementation return_dict output_attentions output_hidden_states id2label
    label2id problem_type finetuning_task task_specific_params is_encoder_decoder is_decoder add_cross_attention
    torchscript use_bfloat16 chunk_size_feed_forward vision_config audio_config text_config image_token_index
    image_token_id video_token_id boi_token_index eoi_token_index boi_token_id eoi_token_id mm_tokens_per_image
    vision_start_token_id vision_end_token_id vision_token_id unsloth_version unsloth_fixed cache_implementation
    experts_per_token initial_context_length generation_config original_max_position_embeddings quantization_config quantization
    use_mtp mtp_transformer_layers num_mtp_modules mtp_num_hidden_layers mtp_use_dedicated_embeddings mamba_ssm_dtype
    use_return_dict num_labels prefix pruned_heads summary_type max_length min_length do_sample temperature top_k
    output_dropout mtp_loss_scaling_factor mtp_hybrid_override_pattern mtp_layers_block_type keep_mtp_spec_in_bf16
    ep_size seq_aux aux_loss_alpha index_share_for_mtp_iteration
    attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner validate_runner_input pad_key_length
    pre_allocate_kv_cache max_batch_size max_sequence_length
    top_p num_beams use_qk_norm qk_layernorm use_qkv_bias residual_dropout embedding_dropout n_ctx attention_head_dim
    summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn
    eod_token_id sep_token_id repetition_penalty length_penalty no_repeat_ngram_size is_llama_config transformers.js_config
    load_balance_coeff use_grouped_mm
    input_jitter_noise lm_head_bias projectors_bias mamba_rms_norm num_logits_to_keep mamba_use_mlp attn_layer_indices mlp_expansion_factor
    use_mamba_kernels mamba_ssm_cache_dtype
    mamba_conv_bias mamba_proj_bias mamba_chunk_size init_method
    use_conv_bias residual_in_fp32 rescale_prenorm_residual time_step_rank time_step_min time_step_max time_step_floor time_step_limit
    time_step_scale time_step_init_scheme chunk_size conv_bias use_expert_bias block_mlp_init_scale block_out_init_scale
    block_use_xavier_init conv_use_xavier_init tie_embedding
    model_max_length tokenizer_class moe_capacity use_parallel_embedding layer_switch
    type_vocab_size hidden_dropout_prob attention_probs_dropout_prob gradient_checkpointing output_past directionality pooler_fc_size
    use_flash_attn use_xentropy fused_bias_fc fused_dropout_add_ln max_trained_positions pad_vocab_size_multiple dense_seq_output
    decoder_bias classifier_bias classifier_activation classifier_pooling deterministic_flash_attn sparse_prediction
    sparse_pred_ignore_index initializer_cutoff_factor reference_compile repad_logits_with_grad mlp_dropout
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type altup_coef_clip
"""
HARMLESS = frozenset(_HARMLESS.split())

#: Values with which a field changes nothing, beside those that stand for nothing: null, false, 0, "" and what is empty.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "decoder_sparse_step": (1,), "moe_layer_freq": (1,), "swiglu_limit": (7.0,), "swiglu_alpha": (1.702,), "n_group": (1,),
    "topk_group": (1,), "routed_scaling_factor": (1.0,), "attention_out_bias": (True,), "full_attn_mod": (1,), "interpolate_factor": (1,),
    "is_causal": (True,), "attn_output_gate": (True,), "scale_attn_weights": (True,), "mlp_type": ("default",),
    "norm_type": ("layer_norm", "rms"), "use_rotary_pos_emb": (True,), "use_mixed_mlp_moe": (True,), "cla_share_factor": (2,),
    # What the code that came with Command R and Command A could be told, and the class does.
    "rotary_pct": (1.0,), "position_embedding_type": ("rope_gptj", "absolute"), "order_of_interleaved_layers": ("local_attn_first",),
    "rotary_emb_fraction": (1.0,), "use_gated_activation": (True,), "use_parallel_block": (True,), "use_embedding_sharing": (True,),
    "moe_layer_end_index": (-1,), "moe_norm_min": (1e-12,), "moe_gate": ("topk",), "moe_use_aux_free": (True,), "use_rmsnorm": (True,),
    # What the code that came with MiniMax-M2 could be told, and the class does.
    "qk_norm_type": ("per_layer",), "use_routing_bias": (True,),
    # What the code that came with LFM2 could be told, and the class does.
    "normalization_function": ("rmsnorm",), "block_use_swiglu": (True,), "use_pos_enc": (True,),
    "use_bidirectional_attention": ("vision",),  # of images alone
    # What the code that came with Trinity could be told, and the class does.
    "score_func": ("sigmoid",), "route_norm": (True,), **dict.fromkeys(("num_expert_groups", "num_limited_groups"), (1,)),
    # What the code that came with Ling and Ring 2.0 could be told.
    "score_function": ("sigmoid",), "router_dtype": ("fp32",),
    **dict.fromkeys(("moe_router_enable_expert_bias", "moe_router_enable_routed_scaling", "moe_router_enable_shared_expert"), (True,)),
    "rope_interleave": (True,), "scoring_func": ("softmax", "sigmoid"), "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
}  # fmt: skip

#: What null says where the class of transformers then does without, and the family has a default.
NULL: Mapping[str, object] = {
    "attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0, "rope_interleave": False, "mup_enabled": False,
    "attention_value_scale": 1.0,
}  # fmt: skip

#: Fields that no family declares, and the key in GGUF that says the same.
OTHER_KEYS: Mapping[str, str] = {
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale", "logits_scaling": "logit_scale", "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale", "attention_multiplier": "attention.scale", "clip_qkv": "attention.clamp_kqv",
    "n_group": "expert_group_count", "topk_group": "expert_group_used_count", "routed_scaling_factor": "expert_weights_scale",
    "first_k_dense_replace": "leading_dense_block_count", "decoder_sparse_step": "moe_every_n_layers",
    "q_lora_rank": "attention.q_lora_rank", "kv_lora_rank": "attention.kv_lora_rank",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length", "swiglu_limit": "swiglu_clamp_exp",
}  # fmt: skip

"""What a GGUF file says about a model beside its tensors: each metadata key, what it changes, and who reads it.

Keys are named without the architecture in front: `rope.freq_base` stands for `llama.rope.freq_base`. A key that no family reads
here must not pass in silence where it would change a number; graph/unread_keys.py holds every file to this table.
Sources: the `gguf` package's constants, llama.cpp's llama-arch.cpp, llama-hparams.h, llama-model.cpp and src/models/*.cpp (at
0c1e57098, the version in llama-cpp-python 0.3.36), and Ollama's converters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from aprgraph.graph.key_conditions import (
    Surroundings,
    always,
    differs_in_window,
    other_activation,
    shares_otherwise_than_from_the_21st,
    stretched,
    with_another_magnitude,
    with_expert_groups,
    with_experts,
    with_growing_queries,
    with_norms_inside,
    with_pooling,
    with_softmax,
    with_window,
    with_yarn,
    without,
    without_shared_expert,
)


@dataclass(frozen=True)
class ModelKey:
    """One key. ``what`` it says, as a phrase; ``ops`` are those of the graph whose nodes it shapes, where the family reads it.

    ``neutral`` are values with which it changes nothing, ``matters`` says whether it can change something in this file at all; where
    it can, a family that does not read it cannot run the model: unless it is ``harmless`` (it bears on no number of a text; in the
    families of ``harmless_in`` converters write it in vain), or real files have it although nobody applies it (``unapplied``, which
    says so). ``has_default``: the family's value is taken where it is absent, and numbers depend on that. ``llama_cpp`` is what
    llama.cpp does otherwise, in the families of ``llama_cpp_in`` (all), but not in those of ``llama_cpp_reads_in``, nor where
    the value is ``llama_cpp_takes``, which it takes in any case; and in a file of which ``llama_cpp_when`` holds.
    ``llama_cpp_of`` says both of a family by itself.
    """

    name: str
    what: str
    ops: tuple[str, ...] = ()
    neutral: tuple[object, ...] = ()
    matters: Callable[[Surroundings], bool] = always
    harmless: bool = False
    harmless_in: tuple[str, ...] = ()
    unapplied: str = ""
    has_default: bool = False
    llama_cpp: str = ""
    llama_cpp_in: tuple[str, ...] = ()
    llama_cpp_reads_in: tuple[str, ...] = ()
    llama_cpp_takes: object = None
    llama_cpp_when: Callable[[Surroundings], bool] = always
    llama_cpp_of: Mapping[str, tuple[str, object]] = field(default_factory=dict)


_HEADS = ("rope", "attn_scores", "attn_mix", "attention")
_SCALE = ("attn_scores", "attention")
_MASK = ("attn_scores", "attn_softmax", "attn_mix", "attention")
_ANGLES = ("rope_angles",)
_RECURRENT = ("short_conv", "delta_rule", "l2_norm", "ssm_scan")
_STREAMS = ("altup_predict", "altup_correct", "stream_add", "stream_mean")
_OFF: tuple[object, ...] = (0, False)
#: Families whose routers llama.cpp reads from the file.
_FREE_ROUTERS = ("glm4moe", "deepseek2", "dots1", "nemotron_h_moe", "bailingmoe2", "afmoe", "exaone-moe")
_NOT_READ = "llama.cpp does not read it in this family"

#: Families without RoPE, whose files may say how much of a head it turns.
_WITHOUT_ROPE = ("gpt2", "starcoder", "bert", "nemotron_h", "nemotron_h_moe", "jamba")
_READ = (
    ModelKey("block_count", "the number of layers"),
    ModelKey("nextn_predict_layers", "how many blocks behind the last layer predict later tokens"),
    ModelKey("context_length", "how many positions the model has room for"),
    ModelKey("embedding_length", "the hidden size", ("embed",)),
    # 0 of models without a network, or without attention.
    ModelKey("feed_forward_length", "the size of the feed-forward network", neutral=(0,)),
    ModelKey("attention.head_count", "the number of query heads", _HEADS, neutral=(0,)),
    ModelKey("attention.head_count_kv", "the number of KV heads", _HEADS, neutral=(0,)),
    ModelKey("attention.key_length", "the size of a head of q and k", _HEADS),
    ModelKey("attention.value_length", "the size of a head of v", ("attn_mix", "attention")),
    ModelKey("attention.key_length_swa", "the size of a head of q and k in layers with a sliding window", _HEADS,
             matters=differs_in_window("attention.key_length")),
    ModelKey("attention.value_length_swa", "the size of a head of v in layers with a sliding window", ("attn_mix", "attention"),
             matters=differs_in_window("attention.value_length")),
    ModelKey("attention.value_scale", "what v is multiplied by", ("scale",), neutral=(0, 1)),
    ModelKey(
        "attention.shared_kv_layers", "how many layers, the last ones, attend to keys and values of earlier ones", _HEADS, neutral=_OFF,
        llama_cpp="llama.cpp does not read it in this family: layers from the 21st on attend to those of earlier ones",
        llama_cpp_in=("gemma3n",), llama_cpp_when=shares_otherwise_than_from_the_21st,
    ),
    ModelKey("altup.num_inputs", "how many streams the hidden state has", _STREAMS, neutral=_OFF, has_default=True,
             llama_cpp_of={"gemma3n": (f"{_NOT_READ}, and takes 4", 4)}),
    ModelKey("altup.active_idx", "which stream the layers work on", ("altup_correct", "columns"), neutral=_OFF,
             llama_cpp_of={"gemma3n": (f"{_NOT_READ}, and takes 0", 0)}),
    ModelKey("altup_correct_scale", "whether the active stream is scaled before it meets the token (config.json)", ("scale_columns",),
             neutral=(True,)),
    ModelKey("laurel_rank", "the rank of the second residual connection (config.json)"),
    ModelKey(
        "activation_sparsity_scale", "how many standard deviations above its mean a gate is cut off", ("gaussian_top_k",),
        llama_cpp_of={"gemma3n": (f"{_NOT_READ}, and takes 1.64485 in the first ten layers; its variance is that of a sample", None)},
    ),
    ModelKey("attention_k_eq_v", "whether layers that see everything have no v of their own (config.json)", neutral=_OFF),
    ModelKey("per_layer_config", "what layers of one kind have otherwise than the rest (config.json)"),
    ModelKey("embedding_length_per_layer_input", "the size of what each layer is given of the token", ("columns",), neutral=_OFF,
             llama_cpp_of={"gemma3n": (f"{_NOT_READ}, and takes 256", 256)}),
    ModelKey("vocab_size_per_layer_input", "how many tokens have embeddings for each layer (config.json)", ("embed",), neutral=(0,)),
    ModelKey("attention.q_lora_rank", "the size of the latent of queries", neutral=(0,)),
    ModelKey("attention.kv_lora_rank", "the size of the latent of keys and values", ("attn_mix", "attention", "head_linear"), neutral=(0,)),
    ModelKey("attention.key_length_mla", "the size of a head of q and k, where that in the cache is another", _HEADS, neutral=(0,)),
    ModelKey("attention.value_length_mla", "the size of a head of v, where that in the cache is another", ("head_linear",), neutral=(0,)),
    ModelKey(
        "attention.layer_norm_rms_epsilon", "the epsilon of the RMSNorms", ("rms_norm",),
        llama_cpp="llama.cpp takes it for the norms of latents too, where the original takes 1e-06", llama_cpp_in=("deepseek2",),
        llama_cpp_of={"mamba": ("llama.cpp takes it for the norms of time steps, B and C too, where the original takes 1e-06", 1e-6)},
        llama_cpp_when=with_norms_inside, llama_cpp_takes=1e-6,
        harmless_in=("nemotron", "modern-bert"),  # whose norms are LayerNorms, though converters write it too
    ),
    ModelKey(
        "attention.layer_norm_epsilon", "the epsilon of LayerNorms", ("layer_norm",),
        unapplied="the norms of this family are RMSNorms, whose epsilon has a key of its own",
    ),
    ModelKey(
        "attention.scale", "what attention scores are multiplied by", _SCALE, neutral=(0,), has_default=True,
        llama_cpp="llama.cpp does not read it in this family, and takes the family's own scale",
        llama_cpp_reads_in=("granite", "granitemoe", "granitehybrid"),
    ),
    ModelKey("attn_logit_softcapping", "the cap of attention scores", _SCALE, neutral=_OFF, has_default=True),
    ModelKey("final_logit_softcapping", "the cap of logits", ("soft_cap",), neutral=_OFF, has_default=True,
             llama_cpp_of={"gemma3n": (f"{_NOT_READ}, and takes 30", 30.0)}),
    ModelKey("embedding_scale", "what embeddings are multiplied by", ("embed",), neutral=(0, 1)),
    ModelKey("mup_enabled", "whether embeddings are multiplied by the root of the hidden size (config.json)", ("embed",), neutral=(False,)),
    ModelKey("residual_scale", "what is added to the residual stream is multiplied by", ("scale",), neutral=(0, 1)),
    ModelKey("attention.clamp_kqv", "the bounds of q, k and v", ("clamp",), neutral=_OFF),
    ModelKey("logit_scale", "what logits are multiplied by, or divided by (granite)", ("scale",), neutral=(0, 1)),
    ModelKey(
        "attention.temperature_scale", "how queries are scaled by their position", ("query_temperature",), neutral=_OFF,
        llama_cpp_of={"llama4": (f"{_NOT_READ}, and takes 0.1", 0.1)},
    ),
    ModelKey(
        "attention.temperature_length", "from which position on queries are scaled", ("query_temperature",), neutral=_OFF,
        matters=with_growing_queries, llama_cpp_of={"llama4": (f"{_NOT_READ}, and takes 8192", 8192)},
    ),
    ModelKey("attn_temperature_tuning", "whether queries are scaled so (config.json)", ("query_temperature",), neutral=(True,)),
    ModelKey("use_qk_norm", "whether heads of q and k are normalised (config.json; Ollama)", neutral=_OFF),
    ModelKey("rope_interleave", "whether RoPE pairs neighbours (config.json)", ("rope",), neutral=(True,)),
    ModelKey("no_rope_layers", "which layers have RoPE (config.json)", ("rope",)),
    ModelKey("no_rope_layer_interval", "every how many layers one has no RoPE (config.json)", ("rope",), neutral=(0,)),
    ModelKey("attention.causal", "whether positions attend to no later ones", _MASK, neutral=(True,)),
    ModelKey(
        "attention.sliding_window", "how many positions a layer attends to, the last ones or those of a chunk", _MASK, neutral=(0,),
        matters=with_window, has_default=True,
        unapplied="every layer attends to all positions, as in llama.cpp: a run of more positions than that may differ from the original",
        llama_cpp="llama.cpp does not apply it: its layers attend to all positions", llama_cpp_in=("phi3", "phimoe"),
        llama_cpp_of={"llama4": ("llama.cpp takes chunks of 8192 positions, whatever number it is but 0", 8192)},
    ),
    ModelKey(
        "attention.sliding_window_pattern", "which layers have the sliding window", (*_MASK, "rope"), matters=with_window,
        has_default=True, unapplied="every layer attends to all positions, as in llama.cpp", llama_cpp="llama.cpp applies no window",
        llama_cpp_in=("phi3", "phimoe"),
    ),
    ModelKey("rope.dimension_count", "how much of a head RoPE turns", (*_ANGLES, "rope"), has_default=True, harmless_in=_WITHOUT_ROPE),
    ModelKey("rope.dimension_count_swa", "how much of a head RoPE turns in layers with a sliding window", (*_ANGLES, "rope"),
             matters=differs_in_window("rope.dimension_count")),
    ModelKey("rope.freq_base", "the base of RoPE", _ANGLES, has_default=True, harmless_in=_WITHOUT_ROPE),
    ModelKey("rope.global.freq_base", "the base of RoPE (Ollama's name)", _ANGLES, matters=without("rope.freq_base"),
             llama_cpp="llama.cpp knows rope.freq_base alone, and takes 10000 without it"),
    ModelKey("rope.freq_base_swa", "the base of RoPE in layers with a sliding window", _ANGLES, matters=with_window, has_default=True),
    ModelKey(
        "rope.local.freq_base", "the base of RoPE in layers with a sliding window (Ollama's name)", _ANGLES,
        matters=without("rope.freq_base_swa", with_window),
        llama_cpp="llama.cpp knows rope.freq_base_swa alone, and takes 10000 without it",
    ),
    ModelKey(
        "rope.scaling.type", "how RoPE was stretched for a longer context", _ANGLES, neutral=("none",),
        llama_cpp="llama.cpp rounds YaRN's bounds to whole pairs, the original does not", llama_cpp_in=("gpt-oss",),
    ),
    ModelKey(
        "rope.scaling.finetuned", "whether the model was trained after stretching, or whether it has RoPE at all (granite)", harmless=True
    ),
    ModelKey("rope.dimension_sections", "how RoPE divides among the axes of an image, which are one in a text", ("rope",), harmless=True),
    ModelKey(
        "rope.scaling.factor", "by what RoPE was stretched", _ANGLES, neutral=(0, 1), matters=stretched,
        unapplied="LongRoPE's own factors are tensors; llama.cpp divides the frequencies by this as well",
    ),
    ModelKey(
        "rope.scale_linear", "by what RoPE was stretched (older name)", _ANGLES, neutral=(0, 1),
        matters=without("rope.scaling.factor", stretched),
        unapplied="LongRoPE's own factors are tensors; llama.cpp divides the frequencies by this as well",
    ),
    ModelKey("rope.scaling.alpha", "by what the base of RoPE was stretched, to the power of D / (D - 2)", _ANGLES, neutral=(0, 1)),
    ModelKey("rope.scaling.attn_factor", "what RoPE's cosines and sines are multiplied by", _ANGLES, neutral=(1,)),
    ModelKey("rope.scaling.original_context_length", "the context before RoPE was stretched", (*_ANGLES, "context_choice")),
    *(
        ModelKey(
            f"rope.scaling.{name}", what, _ANGLES, matters=with_yarn, has_default=True, llama_cpp=f"{_NOT_READ}, and takes {default}",
            llama_cpp_takes=default,
        )
        for default, speed in ((32, "fast"), (1, "slow"))
        for name, what in ((f"yarn_beta_{speed}", f"YaRN's {speed} bound"), (f"beta_{speed}", f"YaRN's {speed} bound (Ollama's name)"))
    ),
    ModelKey(
        "rope.scaling.yarn_log_multiplier", "a part of YaRN's factor of the cosines and sines", _ANGLES, neutral=(0,), matters=with_yarn,
        llama_cpp=_NOT_READ, llama_cpp_reads_in=("deepseek2",),
    ),
    ModelKey("attention.recurrent_layers", "which layers are recurrent", _RECURRENT, neutral=_OFF, has_default=True),
    ModelKey("full_attention_interval", "which layers are not recurrent", _RECURRENT, neutral=_OFF, has_default=True),
    ModelKey("shortconv.l_cache", "the positions of the gated short convolution", ("short_conv",), neutral=_OFF),
    *(
        # Granite 4's dense models have the settings of those with recurrent layers, and none of these layers.
        ModelKey(f"ssm.{name}", f"{what} of recurrent layers", _RECURRENT, neutral=_OFF, harmless_in=("granite", "granitemoe"))
        for name, what in (
            ("conv_kernel", "the positions of the short convolution"), ("inner_size", "the columns of v (x in state spaces)"),
            ("state_size", "the size of a head of q and k (of B and C)"),
            ("time_step_rank", "the number of heads of v (x), or the rank of what the time steps are made of (mamba),"),
            ("group_count", "the number of heads of q and k (groups of B and C)"),
        )
    ),
    ModelKey("expert_layer_period", "every how many layers one has experts (config.json)", neutral=(0,)),
    ModelKey("expert_layer_offset", "the first layer with experts (config.json)", neutral=(0,)),
    ModelKey("ssm.dt_b_c_rms", "whether what time steps are made of, B and C are normalised", ("ssm_scan",), neutral=_OFF,
             has_default=True),
    ModelKey("mixer_rms_eps", "the epsilon of these norms (config.json)"),
    *(
        ModelKey(f"xielu.{name}", what, ("xielu",))
        for name, what in (
            ("alpha_p", "how xIELU grows above 0, before a softplus"), ("alpha_n", "how xIELU bends below 0, before a softplus"),
            ("beta", "xIELU's slope at 0"), ("eps", "from where on xIELU bends"),
        )
    ),
    ModelKey("use_parallel_residual", "whether attention and feed-forward network read the same input", neutral=_OFF),
    ModelKey("pooling_type", "how the positions of a text are made one embedding", ("mean_rows", "first_row", "last_row"), neutral=(0,)),
    ModelKey("pooling_normalize", "whether that is given length 1 (modules.json)", ("l2_norm",), has_default=True, neutral=(True,),
             matters=with_pooling),
    ModelKey("pooler", "whether BERT's own pooler gives the embedding (no file says it)", ("first_row",), neutral=_OFF),
    ModelKey("dense_2_feat_out", "the size behind the first dense layer behind the pooling", matters=with_pooling, neutral=_OFF),
    ModelKey("dense_3_feat_out", "the size behind the second dense layer behind the pooling", matters=with_pooling, neutral=_OFF),
    ModelKey("dense_2_activation", "what comes behind the first of them (its config.json)", ("tanh",), has_default=True,
             neutral=("Identity",), matters=with_pooling),
    ModelKey("dense_3_activation", "what comes behind the second of them (its config.json)", ("tanh",), has_default=True,
             neutral=("Identity",), matters=with_pooling),
    ModelKey("expert_count", "the number of experts", neutral=(0,)),
    ModelKey("expert_used_count", "how many experts a position uses", ("top_k",), matters=with_experts),
    ModelKey("expert_feed_forward_length", "the size of an expert", neutral=(0,), matters=with_experts),
    ModelKey("expert_shared_feed_forward_length", "the size of the shared expert", neutral=(0,), matters=with_experts),
    ModelKey("moe_latent_size", "the size of the latent that experts read", neutral=_OFF, matters=with_experts),
    ModelKey(
        "expert_weights_norm", "whether the weights of the chosen experts are divided by their sum", ("router_weights",),
        matters=with_experts, has_default=True, llama_cpp=f"{_NOT_READ}, and does what the family does", llama_cpp_reads_in=_FREE_ROUTERS,
    ),
    ModelKey(
        "expert_weights_scale", "what the weights of the chosen experts are multiplied by", ("router_weights",), neutral=(0, 1),
        matters=with_experts, llama_cpp=_NOT_READ, llama_cpp_reads_in=_FREE_ROUTERS,
    ),
    ModelKey(
        "router_jitter_noise", "half of how far below the best another expert may be to have a share (config.json)", ("sparse_mixer",),
        has_default=True,
    ),
    ModelKey("expert_gating_func", "how scores of experts become weights", ("router_weights",), neutral=(0, 1), matters=with_experts,
             llama_cpp=f"{_NOT_READ}, and takes the softmax", llama_cpp_reads_in=(*_FREE_ROUTERS, "lfm2moe", "minimax-m2")),
    ModelKey(
        "expert_group_count", "into how many groups experts are divided", ("top_k",), neutral=(0, 1), matters=with_experts,
        llama_cpp="llama.cpp takes groups by their two best experts, also where the original takes them by the best (V2)",
        llama_cpp_in=("deepseek2",), llama_cpp_when=with_softmax,
    ),
    ModelKey("expert_group_used_count", "from how many groups experts are chosen", ("top_k",), matters=with_expert_groups),
    ModelKey("expert_shared_count", "the number of shared experts", neutral=_OFF, matters=without_shared_expert),
    ModelKey("leading_dense_block_count", "how many layers come before those with experts", neutral=_OFF, matters=with_experts),
    ModelKey("interleave_moe_layer_step", "every how many layers one has experts", neutral=(0, 1), matters=with_experts),
    ModelKey("moe_layers", "the layers with experts (config.json)", matters=with_experts),
    ModelKey("moe_layer_end_index", "the last layer with experts (config.json)", neutral=(-1,), matters=with_experts),
)  # fmt: skip

_HARMLESS = tuple(
    ModelKey(name, what, harmless=True)
    for name, what in {
        "vocab_size": "the number of tokens, which the tensors tell",
        "embedding_length_out": "the size of an embedding that is read out",
        "tensor_data_layout": "how the converter laid out rows",
        "classifier.pooling_type": "how embeddings are pooled",
        "classifier.output_labels": "labels of a classifier",
        "decoder_start_token_id": "a token id",
        "dense_2_feat_in": "a size that the layer before tells",
        "dense_3_feat_in": "a size that the layer before tells",
    }.items()
)

#: Keys below these bear on no number of a text: other modalities, and how the model was trained.
_HARMLESS_BELOW = ("vision.", "audio.", "mm.", "projector.", "training.")

_NEVER_READ = (
    ModelKey("router_logit_softcapping", "the cap of the scores of experts", neutral=_OFF),
    ModelKey("attention.max_alibi_bias", "the slope of ALiBi", neutral=_OFF),
    ModelKey("attention.output_scale", "what the output of attention is multiplied by", neutral=(0, 1)),
    ModelKey("attention.group_norm_epsilon", "the epsilon of group norms", neutral=_OFF),
    ModelKey("attention.group_norm_groups", "the groups of group norms", neutral=_OFF),
    *(
        ModelKey(name, "another attention", neutral=_OFF)
        for name in (
            "attention.decay_lora_rank", "attention.iclr_lora_rank",
            "attention.value_residual_mix_lora_rank", "attention.gate_lora_rank", "attention.output_lora_rank",
            "attention.relative_buckets_count",
            "attention.output_group_count", "attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k",
            "attention.compress_rope_freq_base", "attention.compress_ratios",
        )
    ),
    ModelKey("rope.scaling.yarn_ext_factor", "how much of YaRN is applied", neutral=(1,), matters=with_yarn),
    ModelKey("rope.scaling.extrapolation_factor", "how much of YaRN is applied (Ollama's name)", neutral=(1,), matters=with_yarn),
    ModelKey(
        "rope.scaling.yarn_attn_factor", "what RoPE's cosines and sines are multiplied by", neutral=(1,), matters=with_another_magnitude
    ),
    ModelKey("expert_group_scale", "what groups of experts are multiplied by", neutral=(0, 1), matters=with_experts),
    ModelKey("experts_per_group", "how many experts a group has", neutral=(0, 1), matters=with_experts),
    ModelKey("expert_chunk_feed_forward_length", "another kind of expert", neutral=_OFF, matters=with_experts),
    ModelKey("moe_every_n_layers", "which layers have experts", neutral=(0, 1), matters=with_experts),
    ModelKey("swiglu_clamp_exp", "the bounds inside experts", neutral=_OFF),
    ModelKey("swiglu_clamp_shexp", "the bounds inside the shared expert", neutral=_OFF),
    ModelKey("hidden_activation", "the activation", matters=other_activation),
    ModelKey("swin_norm", "where norms stand", neutral=_OFF),
    ModelKey("norm_before_residual", "where norms stand", neutral=_OFF),
    *(
        ModelKey(name, "another architecture", neutral=_OFF)
        for name in (
            "features_length", "decoder_block_count", "hash_layer_count",
            "rescale_every_n_layers", "time_mix_extra_dim", "time_decay_extra_dim", "token_shift_count", "wkv.head_size", "kda.head_dim",
            "posnet.embedding_length", "posnet.block_count", "convnext.embedding_length",
            "convnext.block_count", "hyper_connection.count",
            "target_layers", "target_hidden_size",
        )
    ),
    ModelKey("deepstack_mapping", "which layers read an image", neutral=_OFF),
    ModelKey("n_deepstack_layers", "how many layers, the first ones, read an image", neutral=_OFF, harmless_in=("qwen3vl", "qwen3vlmoe")),
)  # fmt: skip

MODEL_KEYS: Mapping[str, ModelKey] = {key.name: key for key in (*_READ, *_HARMLESS, *_NEVER_READ)}


def find_model_key(name: str) -> ModelKey | None:
    """The key ``name``, given without the architecture; None for one that is not known."""
    if name.startswith(_HARMLESS_BELOW):
        return ModelKey(name, "nothing that a text's numbers depend on", harmless=True)
    return MODEL_KEYS.get(name)


def keys_of_ops(ops: Collection[str]) -> tuple[str, ...]:
    """Names of the keys that shape nodes of one of ``ops``, in the order of the table."""
    return tuple(key.name for key in MODEL_KEYS.values() if set(ops).intersection(key.ops))


def difference_to_llama_cpp(architecture: str, name: str) -> str | None:
    """What llama.cpp does otherwise with the key ``name``, given without the architecture; None where nothing is known."""
    key = find_model_key(name)
    if key is not None and architecture in key.llama_cpp_of:
        return key.llama_cpp_of[architecture][0]
    if key is None or not key.llama_cpp or (key.llama_cpp_in and architecture not in key.llama_cpp_in):
        return None
    if architecture in key.llama_cpp_reads_in:
        return None
    return key.llama_cpp

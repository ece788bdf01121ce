"""What other programs call the stages, and which stage somebody may have meant. This table is the only place that lists these names.

The names are those of transformers' modules, llama.cpp's graphs and GGUF tensors, Llama's own code, and the hooks of TransformerLens. None
of them is read as the stage: what another program calls ``attn_output`` may be before or after a projection. They make suggestions.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from aprgraph.graph.stages import STAGE_ALIASES, STAGE_BY_NAME

#: Stage -> other names, in the form of ``_plain``, apart by blanks.
_OTHER_NAMES = {
    "embedding": "embed_tokens inputs_embeds wte tok_embeddings token_embd token_embedding inp_embd inp_scaled embeddings embed hook_embed",
    "attn_norm": "input_layernorm ln_1 attention_norm attn_layernorm pre_attention_layernorm norm_1",
    "qkv_matmul": "qkv qkv_proj attn_qkv wqkv c_attn query_key_value q_proj k_proj v_proj attn_q attn_k attn_v wq wk wv vcur q k v "
    "query key value hook_q hook_k hook_v",
    "qkv_bias": "qkv_proj_bias q_proj_bias k_proj_bias v_proj_bias",
    "q_norm": "qcur_normed attn_q_norm query_norm",
    "k_norm": "kcur_normed attn_k_norm key_norm",
    "v_norm": "vcur_normed value_norm",
    "q_post_rope": "qcur q_rope q_roped q_after_rope q_rotated q_rot query_rope q_embed hook_rot_q",
    "k_post_rope": "kcur k_rope k_roped k_after_rope k_rotated k_rot key_rope k_embed hook_rot_k",
    "attn_scores": "kq qk scores attention_scores attn_logits hook_attn_scores",
    "attn_softmax": "kq_soft_max kq_soft_max_ext softmax attn_weights attention_weights attn_probs attention_probs hook_pattern",
    "attention": "kqv kqv_out kqv_merged kqv_merged_cont context attn_context self_attn_attn hook_z",
    "attn_out": "o_proj self_attn attn attn_output attention_output attn_o attn_proj out_proj wo hook_attn_out",
    "attn_post_norm": "post_attention_norm",
    "post_attn_residual": "ffn_inp sa_out resid_mid attn_residual post_attention_residual hook_resid_mid",
    "ffn_norm": "post_attention_layernorm pre_feedforward_layernorm ln_2 mlp_norm norm_2 post_layernorm",
    "ffn_gate": "gate_proj mlp_gate gate_up_proj gate w1",
    "ffn_up": "up_proj mlp_up up w3 hook_pre hook_pre_linear",
    "ffn_silu": "act_fn activation_fn silu gelu ffn_gelu ffn_act mlp_act hook_post",
    "ffn_swigl": "ffn_swiglu swiglu geglu ffn_geglu ffn_gate_par ffn_mul",
    "ffn_out": "down_proj ffn_down mlp_down mlp mlp_out mlp_output ffn ffn_output feed_forward down w2 hook_mlp_out",
    "ffn_post_norm": "post_feedforward_layernorm post_ffw_norm post_mlp_norm",
    "moe_router_logits": "ffn_moe_logits router_logits gate_logits ffn_gate_inp",
    "moe_router_scores": "ffn_moe_probs_biased scores_for_choice e_score_correction_bias",
    "moe_router": "ffn_moe_weights ffn_moe_weights_norm ffn_moe_weights_scaled routing_weights router_weights topk_weights top_k_weights",
    "moe_router_indices": "ffn_moe_topk selected_experts topk_ids topk_indices top_k_index top_k_indices expert_ids",
    "moe_expert_gate": "ffn_moe_gate ffn_gate_exps",
    "moe_expert_up": "ffn_moe_up ffn_up_exps",
    "moe_expert_swigl": "ffn_moe_swiglu moe_expert_swiglu ffn_moe_gate_par",
    "moe_expert_out": "ffn_moe_down ffn_down_exps",
    "moe_ffn_out": "ffn_moe_out moe_out block_sparse_moe sparse_moe",
    "post_ffn_residual": "l_out hidden_states hidden_state block_output resid_post residual decoder_layer hook_resid_post hook_resid_pre",
    "ffn_out_norm": "ffn_mlp post_feedforward_layernorm_1 post_ffw_norm_1",
    "moe_norm": "ffn_norm_2 pre_feedforward_layernorm_2 pre_ffw_norm_2",
    "moe_post_norm": "ffn_moe post_feedforward_layernorm_2 post_ffw_norm_2",
    "ffn_sum": "ffn_moe_combined",
    "per_layer_input": "inp_per_layer inp_this_layer",
    "per_layer_gate": "per_layer_input_gate inp_gate",
    "per_layer_out": "per_layer_projection",
    "per_layer_norm": "per_layer_embd_out post_per_layer_input_norm",
    "layer_out": "out_scaled",
    "altup_embedding": "inp_stacked",
    "altup_predicted": "predictions",
    "altup_active": "active_prediction",
    "laurel_left": "linear_left laurel_l",
    "laurel_right": "linear_right laurel_r",
    "laurel_norm": "post_laurel_norm laurel_post_norm",
    "laurel_out": "laurel",
    "laurel_residual": "attn_laurel",
    "altup_corrected": "corrected",
    "altup_scaled": "altup_correct_scale",
    "altup_merged": "unembd_merged",
    "final_norm": "result_norm output_norm model_norm norm_f f_norm ln_f final_layernorm final_rms_norm last_hidden_state "
    "final_norm_layernorm",
    "pooled": "pooling pooler_output mean_pooling cls_pooling pooled_output",
    "pooled_normed": "sentence_embedding text_embedding normalized_embedding embedding_normalized",
    "lm_head": "logits result_output output_logits lm_logits lm_head_output",
}  # fmt: skip

_STAGE_OF = {name: stage for stage, names in _OTHER_NAMES.items() for name in names.split()} | STAGE_ALIASES
#: What these mean depends on whether they are of a layer: (of a layer, of the whole model).
_BY_PLACE = {"output": ("post_ffn_residual", "lm_head"), "norm": (None, "final_norm")}

#: Those of them that are parts of a stage (stage_parts.py), and which.
_PARTS = {
    name: part
    for part, names in {
        "q": "q_proj attn_q wq q query hook_q q_proj_bias",
        "k": "k_proj attn_k wk k key hook_k k_proj_bias",
        "v": "v_proj attn_v wv vcur v value hook_v v_proj_bias",
    }.items()
    for name in names.split()
}
#: What else to know of some of them.
_REMARKS = {
    **dict.fromkeys(_PARTS, "one of three parts of qkv_matmul, which holds q, k and v side by side in each row"),
    **{f"{part}_proj_bias": "one of three parts of qkv_bias, which holds q, k and v side by side in each row" for part in "qkv"},
    "gate_up_proj": "holds ffn_gate and ffn_up side by side; give each its own file",
    "hidden_states": "transformers' hidden_states[i] is what layer i is given, and so the output of layer i - 1; of all layers in one "
    "array each needs a name of its own, such as hidden_states.3",
    "hook_resid_pre": "what layer i is given, and so the output of layer i - 1",
    "post_attention_layernorm": "in gemma3 it is attn_post_norm",
}

#: Below this share of letters in common, in words of at least five letters, two names are not alike.
_ALIKE, _SHORTEST = 0.78, 5


def nearest_stage(name: str, *, of_layer: bool = False) -> str | None:
    """The stage that ``name`` may stand for, whoever wrote it; None if none is near. ``of_layer``: it was given a layer."""
    plain = _plain(name)
    if plain in STAGE_BY_NAME:
        return plain
    if plain in _BY_PLACE:
        return _BY_PLACE[plain][not of_layer]
    if plain in _STAGE_OF:
        return _STAGE_OF[plain]
    if len(plain) < _SHORTEST:
        return None
    near = _most_alike(plain, (*STAGE_BY_NAME, *_STAGE_OF))
    return None if near is None else _STAGE_OF.get(near, near)


@lru_cache(maxsize=1000)
def _most_alike(name: str, known: tuple[str, ...]) -> str | None:
    """Of the names ``known`` the one that is most like ``name``; None if none is near. Many files of a folder are of one word."""
    near = difflib.get_close_matches(name, [other for other in known if len(other) >= _SHORTEST], n=1, cutoff=_ALIKE)
    return near[0] if near else None


def is_known_elsewhere(name: str) -> bool:
    """Whether ``name`` is a stage's, here or in another program; a name that is only like one is not."""
    plain = _plain(name)
    return plain in STAGE_BY_NAME or plain in _STAGE_OF or plain in _BY_PLACE


def remark_on(name: str) -> str | None:
    """What to know of a name of another program, in words; None where the suggestion says it all."""
    return _REMARKS.get(_plain(name))


def nearest_part(name: str) -> str | None:
    """Which part of the nearest stage ``name`` stands for, such as q; None where that is the whole stage."""
    return _PARTS.get(_plain(name))


def did_you_mean(name: str) -> str:
    """`` (did you mean 'ffn_swigl'?)``, for an error about an unknown stage; empty if nothing is near."""
    near = nearest_stage(name)
    return "" if near in (None, name) else f" (did you mean {near!r}?)"


def nearest_first(names: Sequence[str], stages: Iterable[str]) -> list[str]:
    """``stages``, those first that one of ``names`` stands for, then those that have it in their name."""
    near, plain = {nearest_stage(name) for name in names}, [_plain(name) for name in names]
    return sorted(stages, key=lambda stage: 0 if stage in near else 1 if any(word and word in stage for word in plain) else 2)


def _plain(name: str) -> str:
    """Small letters, and ``_`` between words."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")

"""The stage table: names and order are shared with another tool, and must not drift."""

from __future__ import annotations

import pytest

from aprgraph.graph.stages import HIDDEN, STAGE_ALIASES, STAGE_BY_NAME, STAGES, StageKind, execution_key, is_logits

#: As the interchange document gives them.
ORDER = [
    "embedding", "embedding_norm", "altup_embedding", "altup_predict_norm", "altup_predict_router", "altup_predict_coefs", "altup_predicted",
    "altup_active", "attn_norm", "laurel_left", "laurel_right", "laurel_norm", "laurel_out", "conv_in", "delta_gate", "delta_beta", "conv_bcx", "conv_bx", "conv_out", "conv_gated", "conv_silu",
    "delta_q", "delta_k", "delta_decay", "delta_rule", "delta_gated", "ssm_gate", "ssm_dt_b_c", "ssm_dt_norm", "ssm_b_norm", "ssm_c_norm", "ssm_step",
    "ssm_scan", "ssm_norm", "ssm_gated",
    "ssm_out", "qkv_matmul",
    "attn_gate", "qkv_bias", "q_norm", "k_norm", "v_norm", "q_post_rope", "k_post_rope", "q_a", "q_a_norm", "q_matmul", "q_pe", "kv_a", "kv_a_norm", "k_pe", "kv_b", "q_absorbed", "attn_scores", "attn_softmax", "attn_latent", "attention",
    "attn_gated", "attn_sub_norm", "attn_out", "attn_post_norm", "post_attn_residual", "laurel_residual", "ffn_norm", "ffn_gate", "ffn_up",
    "ffn_gate_sparse", "ffn_silu", "ffn_swigl", "ffn_sub_norm", "ffn_out",
    "ffn_out_norm", "ffn_post_norm", "moe_router_norm", "moe_router_logits", "moe_router_scores", "moe_router", "moe_router_indices",
    "moe_norm", "moe_latent", "moe_expert_in", "moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out", "moe_latent_sum",
    "moe_latent_out", "moe_ffn_out", "moe_post_norm", "ffn_sum",
    "post_ffn_residual", "altup_correct_norm", "altup_correct_router", "altup_correct_coefs", "altup_corrected", "altup_scaled",
    "per_layer_input", "per_layer_gate", "per_layer_gated", "per_layer_out", "per_layer_norm", "layer_out", "altup_out", "layer_out_norm",
    "altup_merged", "final_norm", "pooled", "pooled_up", "pooled_up_act", "pooled_down", "pooled_down_act", "pooled_normed", "lm_head_raw", "lm_head",
]  # fmt: skip
LATENT = {"q_a", "q_a_norm", "q_matmul", "q_pe", "kv_a", "kv_a_norm", "k_pe", "kv_b", "q_absorbed", "attn_latent"}
RECURRENT = {
    "conv_in", "delta_gate", "delta_beta", "conv_out", "conv_silu", "delta_q", "delta_k", "delta_decay", "delta_rule", "delta_gated",
    "ssm_gate", "ssm_step", "ssm_scan", "ssm_norm", "ssm_gated",
    "ssm_out",
}  # fmt: skip
SELECTIVE = {"ssm_dt_b_c", "ssm_dt_norm", "ssm_b_norm", "ssm_c_norm"}
GATED = {"attn_gate", "attn_gated"}
INNER = {"attn_sub_norm", "ffn_sub_norm"}
NARROW = {"moe_latent", "moe_latent_sum", "moe_latent_out"}
CONVOLUTION = {"conv_bcx", "conv_bx", "conv_gated"}
POOLED = ["pooled", "pooled_up", "pooled_up_act", "pooled_down", "pooled_down_act", "pooled_normed"]
PER_LAYER = {"per_layer_input", "per_layer_gate", "per_layer_gated", "per_layer_out", "per_layer_norm"}
BESIDE = {"ffn_out_norm", "moe_router_norm", "moe_norm", "moe_post_norm", "ffn_sum"}
STREAMS = {
    "altup_embedding", "altup_predict_norm", "altup_predict_router", "altup_predict_coefs", "altup_predicted", "altup_active",
    "altup_correct_norm", "altup_correct_router", "altup_correct_coefs", "altup_corrected", "altup_scaled", "altup_out", "altup_merged",
}  # fmt: skip
LAUREL = {"laurel_left", "laurel_right", "laurel_norm", "laurel_out", "laurel_residual"}
ADDITIONS = LATENT | RECURRENT | SELECTIVE | CONVOLUTION | GATED | INNER | NARROW | {*POOLED} | PER_LAYER | BESIDE | STREAMS | LAUREL | {
    "v_norm", "layer_out", "embedding_norm", "layer_out_norm", "ffn_gate_sparse",
    "q_norm", "k_norm", "attn_post_norm", "ffn_post_norm", "moe_router_logits", "moe_router_scores", "moe_expert_in", "moe_expert_gate",
    "moe_expert_up", "moe_expert_swigl", "moe_expert_out", "lm_head_raw",
}  # fmt: skip


@pytest.mark.contract("STAGES-INTERCHANGE-1")
def test_names_and_order() -> None:
    assert [stage.name for stage in STAGES] == ORDER
    assert list(STAGE_BY_NAME) == ORDER


@pytest.mark.contract("STAGES-INTERCHANGE-1")
def test_whole_model_stages_and_additions() -> None:
    assert [stage.name for stage in STAGES if not stage.per_layer] == ["altup_merged", "final_norm", *POOLED, "lm_head_raw", "lm_head"]
    assert [stage.name for stage in STAGES if stage.first_layer_only] == ["embedding", "embedding_norm", "altup_embedding"]
    assert {stage.name for stage in STAGES if stage.addition} == ADDITIONS


def test_shapes() -> None:
    dims = {stage.name: ", ".join(stage.dims) for stage in STAGES}
    assert dims["qkv_matmul"] == dims["qkv_bias"] == "n, (H+2K)*D"
    assert dims["q_post_rope"] == dims["q_norm"] == dims["attention"] == "n, H*D"
    assert dims["k_post_rope"] == dims["k_norm"] == "n, K*D"
    assert dims["attn_scores"] == dims["attn_softmax"] == "H, n, t"
    assert dims["ffn_gate"] == dims["ffn_up"] == dims["ffn_silu"] == dims["ffn_swigl"] == "n, F"
    assert dims["moe_expert_out"] == "n, k, W"
    assert dims["lm_head"] == "V"
    hidden = "embedding attn_norm attn_out post_attn_residual ffn_norm ffn_out moe_ffn_out post_ffn_residual final_norm"
    assert {dims[name] for name in hidden.split()} == {"n, E"}


def test_every_stage_is_described_and_has_a_kind() -> None:
    assert all(stage.summary and isinstance(stage.kind, StageKind) for stage in STAGES)
    assert STAGE_BY_NAME["moe_router_indices"].kind is StageKind.INDEX


def test_aliases_name_stages() -> None:
    assert STAGE_ALIASES == {"layer_output": "post_ffn_residual"}
    assert set(STAGE_ALIASES).isdisjoint(STAGE_BY_NAME)


def test_execution_order_of_layers_and_whole_model_stages() -> None:
    ordered = [(0, "embedding"), (0, "post_ffn_residual"), (1, "attn_norm"), (10, "embedding"), (None, "final_norm"), (None, "lm_head")]
    for pairs in (ordered[::-1], ordered[1::2] + ordered[::2]):
        assert sorted(pairs, key=lambda pair: execution_key(*pair)) == ordered


def test_a_stage_that_is_not_known_comes_after_those_that_are() -> None:
    assert execution_key(0, "no_such_stage") > execution_key(0, "lm_head")


def test_stages_read_others_of_their_layer_and_come_after_them() -> None:
    for stage in STAGES:
        assert set(stage.recalls) <= set(stage.reads) <= {HIDDEN, *STAGE_BY_NAME}
        per_layer = {STAGE_BY_NAME[name].per_layer for name in stage.reads if name != HIDDEN}
        assert per_layer <= {stage.per_layer}
    read = {name for stage in STAGES for name in stage.reads}
    unread = [stage.name for stage in STAGES if stage.name not in read]
    assert unread == ["embedding_norm", "altup_embedding", "layer_out_norm", "pooled_normed", "lm_head"], "a hidden state is read as such"


def test_what_holds_of_single_stages() -> None:
    assert [stage.name for stage in STAGES if stage.is_logits] == ["lm_head_raw", "lm_head"]
    assert [stage.name for stage in STAGES if stage.rows_sum_to_1] == ["attn_softmax"]
    assert [stage.name for stage in STAGES if stage.is_masked] == ["attn_scores", "attn_softmax"]
    assert [stage.name for stage in STAGES if stage.is_product] == ["conv_bx", "conv_gated"]
    assert [stage.name for stage in STAGES if stage.is_sum] == [
        "altup_predicted", "laurel_out", "qkv_bias", "post_attn_residual", "laurel_residual", "ffn_gate_sparse", "moe_router_scores", "ffn_sum",
        "post_ffn_residual", "altup_corrected", "layer_out", "altup_out", "altup_merged", "pooled",
    ]  # fmt: skip
    assert {stage.name for stage in STAGES if stage.optional} == {
        "qkv_bias",
        "q_norm",
        "k_norm",
        "v_norm",
        "layer_out",
        "attn_post_norm",
        "ffn_post_norm",
        "moe_router_scores",
        "moe_expert_in",
        "lm_head_raw",
        "embedding_norm",
        "layer_out_norm",
        "ffn_gate_sparse",
        *STREAMS,
        *LAUREL,
        *POOLED,
        *LATENT,
        *RECURRENT,
        *SELECTIVE,
        *CONVOLUTION,
        *GATED,
        *INNER,
        *NARROW,
        *PER_LAYER,
        *BESIDE,
    }
    assert {stage.name for stage in STAGES if stage.only_with == "latent"} == LATENT
    assert {stage.name for stage in STAGES if stage.only_with == "recurrent"} == RECURRENT
    assert {stage.name for stage in STAGES if stage.only_with == "selective"} == SELECTIVE
    assert {stage.name for stage in STAGES if stage.only_with == "per_layer"} == PER_LAYER
    assert {stage.name for stage in STAGES if stage.only_with == "beside"} == BESIDE
    assert {stage.name for stage in STAGES if stage.only_with == "streams"} == STREAMS
    assert {stage.name for stage in STAGES if stage.only_with == "laurel"} == LAUREL
    assert {stage.name for stage in STAGES if stage.only_with == "convolution"} == CONVOLUTION
    assert {stage.name for stage in STAGES if stage.only_with == "gated"} == GATED
    assert {stage.name for stage in STAGES if stage.only_with == "inner norms"} == INNER
    assert {stage.name for stage in STAGES if stage.only_with == "latent experts"} == NARROW
    assert {stage.name for stage in STAGES if stage.only_with == "weighed inputs"} == {"moe_expert_in"}
    assert {stage.name for stage in STAGES if stage.network == "experts"} == {name for name in STAGE_BY_NAME if name.startswith("moe_")}
    assert not is_logits(None)
    assert not is_logits("no_such_stage")

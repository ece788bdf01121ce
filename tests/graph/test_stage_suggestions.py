"""What somebody may have meant by a name that is no stage."""

from __future__ import annotations

import pytest

from aprgraph.graph.errors import PlanError
from aprgraph.graph.stage_suggestions import _OTHER_NAMES, did_you_mean, is_known_elsewhere, nearest_stage, remark_on
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.tap_plan import parse_taps


def test_the_table_names_stages_and_each_other_name_once() -> None:
    names = [name for others in _OTHER_NAMES.values() for name in others.split()]
    assert set(_OTHER_NAMES) <= set(STAGE_BY_NAME)
    assert len(names) == len(set(names))
    assert not set(names) & set(STAGE_BY_NAME)


@pytest.mark.parametrize(("name", "stage"), [
    ("ffn_swiglu", "ffn_swigl"), ("o_proj", "attn_out"), ("q_proj", "qkv_matmul"), ("input_layernorm", "attn_norm"), ("logits", "lm_head"),
    ("hidden_states", "post_ffn_residual"), ("mlp", "ffn_out"), ("down_proj", "ffn_out"), ("kqv_out", "attention"), ("l_out", "post_ffn_residual"),
    ("Qcur", "q_post_rope"), ("FFN-Gate", "ffn_gate"), (" attn norm ", "attn_norm"), ("ffn_gaet", "ffn_gate"), ("atn_norm", "attn_norm"),
    ("attn_score", "attn_scores"), ("output", "lm_head"), ("norm", "final_norm"), ("layer_output", "post_ffn_residual"),
    ("mystery", None), ("rms_norm", None), ("qk_", "attn_scores"), ("", None), ("x", None), ("·", None),
])  # fmt: skip
def test_the_nearest_stage(name: str, stage: str | None) -> None:
    assert nearest_stage(name) == stage


def test_some_names_depend_on_where_they_stand() -> None:
    assert nearest_stage("output", of_layer=True) == "post_ffn_residual"
    assert nearest_stage("norm", of_layer=True) is None


def test_a_name_that_is_only_like_one_is_not_known() -> None:
    assert is_known_elsewhere("MLP")
    assert not is_known_elsewhere("ffn_gaet")


def test_a_part_of_a_stage_is_said_to_be_one() -> None:
    assert remark_on("k_proj") == "one of three parts of qkv_matmul, which holds q, k and v side by side in each row"
    assert remark_on("o_proj") is None


def test_the_question_is_asked_where_there_is_an_answer() -> None:
    assert did_you_mean("ffn_swiglu") == " (did you mean 'ffn_swigl'?)"
    assert did_you_mean("mystery") == did_you_mean("ffn_gate") == ""
    with pytest.raises(
        PlanError, match=r"taps=: unknown stage 'o_proj' \(did you mean 'attn_out'\?\); the stages are: attn_out, embedding, "
    ):
        parse_taps("attn_norm,o_proj")

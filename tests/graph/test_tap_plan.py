"""The rules of tap plans."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aprgraph.graph.errors import PlanError
from aprgraph.graph.stages import STAGES
from aprgraph.graph.tap_plan import OPEN_END, Plan, parse_layers, parse_plan, parse_steps, parse_taps

NAMES = tuple(stage.name for stage in STAGES)


@pytest.mark.contract("PLAN-SPELLING-1")
def test_names_come_back_in_execution_order_each_once() -> None:
    assert parse_taps("lm_head,embedding,ffn_gate,embedding") == Plan(("embedding", "ffn_gate", "lm_head"))


@pytest.mark.contract("PLAN-SPELLING-1")
@pytest.mark.parametrize("text", ["QKV_MATMUL,Attn_Out", " qkv_matmul , attn_out ", "\tattn_out,\tqkv_matmul\n"])
def test_case_and_blanks_do_not_matter(text: str) -> None:
    assert parse_taps(text) == Plan(("qkv_matmul", "attn_out"))


@pytest.mark.contract("PLAN-ALL-1")
@pytest.mark.parametrize("text", ["all", "ALL", " All "])
def test_all_is_every_stage(text: str) -> None:
    assert parse_taps(text) == Plan(NAMES, everything=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_can_be_named(name: str) -> None:
    assert parse_taps(name.upper()) == Plan((name,))


def test_layer_output_is_an_alias() -> None:
    assert parse_taps("layer_output") == parse_taps("post_ffn_residual") == parse_taps("Layer_Output,post_ffn_residual")


@pytest.mark.contract("PLAN-NAMES-1")
@pytest.mark.parametrize("text", ["", " ", ",", "embedding,", ",embedding", "embedding,,attn_norm", "all,", "embedding, ,attn_norm"])
def test_an_empty_name_is_an_error_that_lists_the_valid_ones(text: str) -> None:
    with pytest.raises(PlanError, match="empty stage name") as caught:
        parse_taps(text)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.contract("PLAN-NAMES-1")
@pytest.mark.parametrize("text", ["qkv", "embedding,bogus", "attn-norm", "all layers", "none", "lm_head\nx"])
def test_an_unknown_name_is_an_error_that_lists_the_valid_ones(text: str) -> None:
    with pytest.raises(PlanError, match="unknown stage") as caught:
        parse_taps(text)
    assert all(name in str(caught.value) for name in NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["all,embedding", "embedding,ALL"])
def test_all_stands_alone(text: str) -> None:
    with pytest.raises(PlanError, match="'all' stands alone"):
        parse_taps(text)


@pytest.mark.contract("PLAN-LAYERS-1")
@pytest.mark.parametrize(
    ("text", "layers"),
    [("0..1", range(1)), ("3..17", range(3, 17)), (" 5..6 ", range(5, 6)), ("00..02", range(2)), ("3", range(3, 4)),
     ("5..", range(5, OPEN_END)), ("all", range(OPEN_END)), (" ALL ", range(OPEN_END))],
)  # fmt: skip
def test_layers(text: str, layers: range) -> None:
    assert parse_layers(text) == layers


@pytest.mark.contract("PLAN-LAYERS-2")
@pytest.mark.parametrize(
    "text",
    ["", "..", "0-3", "-1..2", "0..-2", "0..x", "x..1", "..3", "0...3", "0.0..1", "0..1..2", "3,4", "٣", "0.. 1", "first", "1e1..20", "+0..1", "0 ..1",
     "0..1,2..3", "٠..١", "²..3", "0.." + "9" * 5000],
)  # fmt: skip
def test_layers_that_do_not_parse_say_what_was_expected(text: str) -> None:
    with pytest.raises(PlanError, match=re.escape("expected START..END with two whole numbers, END exclusive")):
        parse_layers(text)


@pytest.mark.contract("PLAN-LAYERS-2")
@pytest.mark.parametrize("text", ["5..5", "7..3", "0..0"])
def test_layers_with_nothing_in_them_say_so(text: str) -> None:
    with pytest.raises(PlanError, match="no layer in it; END is exclusive"):
        parse_layers(text)


@pytest.mark.contract("STAGES-INTERCHANGE-1")
def test_the_stages_of_apr_by_one_word() -> None:
    plan = parse_plan(" APR ", "0..2")
    assert len(plan.stages) == 23
    assert set(parse_plan("all").stages) - set(plan.stages) >= {"q_norm", "moe_router_logits", "moe_expert_out", "lm_head_raw"}
    assert (plan.everything, plan.describe()) == (True, "apr 0..2")
    assert parse_plan("all", "0..2").describe() == "all 0..2"
    with pytest.raises(PlanError, match="'apr' stands alone"):
        parse_plan("apr,ffn_out")


@pytest.mark.contract("PLAN-LAYERS-1")
def test_defaults() -> None:
    assert parse_plan("embedding") == Plan(("embedding",), range(1), everything=False)
    assert parse_plan(None) == Plan()
    assert parse_plan(None).is_empty
    assert not parse_plan("embedding").is_empty


def test_layers_are_checked_even_where_nothing_is_tapped() -> None:
    with pytest.raises(PlanError):
        parse_plan(None, "5..5")


@pytest.mark.contract("PLAN-LAYERS-3")
def test_layers_filter_per_layer_stages_only() -> None:
    plan = parse_plan("attn_norm,final_norm,lm_head", "2..4")
    assert [layer for layer in range(6) if plan.selects("attn_norm", layer)] == [2, 3]
    assert plan.selects("final_norm", None)
    assert plan.selects("lm_head", None)
    assert not plan.selects("ffn_norm", 2)


@pytest.mark.parametrize(
    ("taps", "layers", "text"),
    [
        ("lm_head, Embedding", "0..2", "embedding,lm_head 0..2"),
        ("ALL", "1..2", "all 1..2"),
        (None, "0..1", "none"),
        ("layer_output", "0..1", "post_ffn_residual 0..1"),
    ],
)
def test_one_canonical_spelling(taps: str | None, layers: str, text: str) -> None:
    assert parse_plan(taps, layers).describe() == text


@pytest.mark.contract("PLAN-PATTERN-1")
def test_a_pattern_selects_what_matches_it() -> None:
    plan = parse_taps("Q_*,lm_head")
    assert plan.stages == tuple(name for name in NAMES if name.startswith("q_") or name == "lm_head")
    assert parse_taps("*").stages == NAMES
    assert parse_taps("ffn_g??e,ffn_[uv]?").stages == ("ffn_gate", "ffn_up")
    with pytest.raises(PlanError, match=re.escape("no stage matches 'attn-*'; the stages are: attn_out, attn_norm")):
        parse_taps("attn-*")


@pytest.mark.contract("PLAN-PATTERN-2")
def test_of_a_pattern_the_stages_that_a_model_has_and_of_names_all() -> None:
    there = {"embedding", "qkv_matmul", "q_post_rope", "lm_head"}
    assert parse_plan("q*", "0..1").within(there, 2) == Plan(("qkv_matmul", "q_post_rope"))
    named = parse_plan("q*,q_norm", "0..1").within(there, 2)
    assert named.stages == ("qkv_matmul", "q_norm", "q_post_rope")  # and insert-taps refuses q_norm, as it was named
    with pytest.raises(PlanError, match=re.escape("no stage of this model matches 'moe_*'; its stages are: embedding, qkv_matmul")):
        parse_plan("q*,moe_*").within(there, 2)


@pytest.mark.contract("PLAN-LAYERS-4")
def test_an_open_end_is_that_of_the_model() -> None:
    there = {"attn_norm", "lm_head"}
    assert parse_plan("attn_norm", "all").within(there, 3) == Plan(("attn_norm",), range(3))
    assert parse_plan("attn_norm", "1..").within(there, 3).describe() == "attn_norm 1..3"
    assert parse_plan("attn_norm", "1..").describe() == "attn_norm 1.."
    assert parse_plan("lm_head", "7..").within(there, 3).selects("lm_head", None)
    with pytest.raises(PlanError, match=re.escape("layers='3..': the model has the layers 0 to 2; begin at one of them")):
        parse_plan("attn_norm", "3..").within(there, 3)


def test_from_python_stages_come_one_by_one_and_numbers_as_they_are() -> None:
    assert parse_plan(["attn_norm", " FFN_* "], 2) == parse_plan("attn_norm,ffn_*", "2..3")
    assert parse_plan(("all",), range(1, 3)) == parse_plan("all", "1..3")
    assert (parse_steps(0), parse_steps(range(4))) == (range(1), range(4))


@pytest.mark.parametrize(("taps", "layers", "message"), [
    ([], "0..1", r"taps='': empty stage name; expected a comma list of stage names, or 'all'; "),
    ([3], "0..1", r"taps=\[3\]: expected stage names, or 'all'; "),
    (3, "0..1", r"taps=3: expected stage names, or 'all'; "),
    ("all", [0, 1], r"layers='\[0, 1\]': expected START..END with two whole numbers, "),
    ("all", True, r"layers='True': expected START..END "),
    ("all", range(0, 4, 2), r"layers='range\(0, 4, 2\)': expected START..END "),
    ("all", range(0), r"layers='0..0': no layer in it; "),
])  # fmt: skip
def test_what_else_comes_from_python_is_an_error(taps: Any, layers: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(taps, layers)

"""Passes as text: names, options, and what is wrong with others."""

from __future__ import annotations

import pytest

from aprgraph.graph.errors import GraphError, PlanError
from aprgraph.graph.passes import FillCaches, FixContext, InsertTaps, OnePass, Pass, Prune, ReplayRecorded, make_passes, run_passes
from aprgraph.graph.tap_plan import parse_plan
from tests.support.graphs import TOY, graph_of


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("prune", [Prune()]),
        (" Prune , ONE-PASS{} ", [Prune(), OnePass()]),
        ("fix-context{positions=4097},fill-caches", [FixContext(4097), FillCaches()]),
        ("fix-context", [FixContext(0)]),
        ("insert-taps", [InsertTaps(parse_plan("all"))]),
        ("insert-taps{taps=attn_norm,lm_head layers=0..2},prune", [InsertTaps(parse_plan("attn_norm,lm_head", "0..2")), Prune()]),
        ("insert-taps{ keep-outputs  taps=lm_head }", [InsertTaps(parse_plan("lm_head"), keep_outputs=True)]),
        ("insert-taps{keep-outputs=false}", [InsertTaps(parse_plan("all"))]),
        (
            "replay-recorded{sources=a,b targets=c kept=d},prune",
            [ReplayRecorded(frozenset("ab"), frozenset("c"), kept=frozenset("d")), Prune()],
        ),
    ],
)
def test_options_are_fields(text: str, passes: list[Pass]) -> None:
    assert make_passes(text) == passes


def test_taps_and_layers_that_are_left_out_are_those_of_the_plan() -> None:
    plan = parse_plan("final_norm", "1..2")
    texts = ("insert-taps", "insert-taps{taps=attn_norm}", "insert-taps{layers=0..1}", "insert-taps{keep-outputs}")
    assert [make_passes(text, plan) for text in texts] == [
        [InsertTaps(plan)],
        [InsertTaps(parse_plan("attn_norm", "1..2"))],
        [InsertTaps(parse_plan("final_norm", "0..1"))],
        [InsertTaps(plan, keep_outputs=True)],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "passes '': names no pass; expected such as insert-taps,prune"),
        (" ", "passes ' ': names no pass"),
        ("prune,", "passes 'prune,': expected names with commas between, and options as in NAME{OPTION=VALUE OPTION=VALUE}"),
        ("{x=1}", "passes '{x=1}': expected names with commas between"),
        ("fold{x=1}", "unknown pass 'fold'; expected one of"),
        ("prune{deep}", "pass prune: no option 'deep'; expected none"),
        ("insert-taps{tap=lm_head}", "pass insert-taps: no option 'tap'; expected taps, layers, keep-outputs"),
        ("insert-taps{keep-outputs=maybe}", "pass insert-taps: keep-outputs=maybe: expected true or false"),
        ("fix-context{positions=-1}", "pass fix-context: positions=-1: expected a whole number"),
        ("fix-context{positions}", "pass fix-context: positions=true: expected a whole number"),
        ("fix-context{positions=1 positions=2}", "the option positions appears twice"),
        ("fix-context{positions=}", "'positions=' is no option, expected OPTION=VALUE"),
        ("replay-recorded{sources=a}", "pass replay-recorded: the option targets is missing, as in replay-recorded{targets=VALUE}"),
        ("prune{", "expected names with commas between, and options as in NAME{OPTION=VALUE OPTION=VALUE}"),
        ("prune}", "expected names with commas between"),
        ("prune{a{b}}", "expected names with commas between"),
        ("prune one-pass", "expected names with commas between"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        make_passes(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_that_cannot_be_is_the_error_of_plans() -> None:
    with pytest.raises(PlanError, match="unknown stage 'ffn_gat'"):
        make_passes("insert-taps{taps=ffn_gat}")


def test_taps_that_the_model_lacks_are_answered_with_its_own_stages() -> None:
    """Not with those of all families, among which ffn_gate would be the nearest."""
    with pytest.raises(PlanError) as caught:
        make_passes("insert-taps{taps=ffn_gat}", None, lambda: {"ffn_up", "lm_head"})
    message = str(caught.value)
    assert "('ffn_gate' is not in this model)" in message
    assert "this model's stages are: ffn_up, lm_head, or 'all'" in message


def test_a_pipeline_of_text_runs() -> None:
    graph = run_passes(graph_of(TOY), make_passes("all-positions,insert-taps{taps=final_norm,lm_head keep-outputs},prune"))
    assert graph.outputs == ("tap.final_norm", "tap.lm_head", "lm_head")
    assert str(graph["lm_head"].type) == "f32[n, 9]"

"""What to tap next: following the suggestions, from whatever few taps, ends at the stage that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import aprgraph
from aprgraph.comparison import audit, diff, suggested_arguments, suggested_arguments_of
from aprgraph.graph.arguments import Argument
from aprgraph.graph.tap_plan import Plan
from aprgraph.option_words import option_words
from aprgraph.runtime.blame.suggest import Suspicion, arguments_for, suggest
from aprgraph.runtime.diff.classify import Finding, State, classify
from aprgraph.runtime.diff.dependencies import from_stage_table
from aprgraph.runtime.place import Place
from tests.support.blame import TOKENS
from tests.support.cli import run_cli

Tiny = Callable[..., Path]


def options_of(arguments: Sequence[Argument] | None) -> str | None:
    return None if arguments is None else " ".join(map(option_words, arguments))


def test_stages_between_are_tapped_with_what_frames_them() -> None:
    inside = tuple(Place(0, 3, stage) for stage in ("ffn_gate", "ffn_up", "ffn_swigl", "ffn_out"))
    suspicion = Suspicion(inside[-1], inside, (Place(0, 3, "ffn_norm"),))
    plan = suggest(suspicion, {(0, 3, "ffn_out"), (0, 3, "ffn_norm")})
    assert plan == Plan(("ffn_norm", "ffn_gate", "ffn_up", "ffn_swigl", "ffn_out"), range(3, 4))
    assert options_of(arguments_for(plan, 0)) == "--taps ffn_norm,ffn_gate,ffn_up,ffn_swigl,ffn_out --layers 3..4"


def test_a_region_of_several_layers_is_cut_at_their_ends() -> None:
    inside = tuple(Place(0, layer, stage) for layer in range(2, 6) for stage in ("attn_out", "post_ffn_residual"))
    plan = suggest(Suspicion(inside[-1], inside, (Place(0, 1, "post_ffn_residual"),)), {inside[-1]})
    assert plan == Plan(("post_ffn_residual",), range(1, 6))


def test_layers_that_only_the_stage_table_knows() -> None:
    ends, norm = Place(0, 2, "post_ffn_residual"), Place(0, 9, "attn_norm")
    findings = {ends: Finding(State.NOISE), norm: Finding(State.EXCEEDS)}
    _, (first,) = classify(findings, from_stage_table(findings))
    assert first.region == ("layers 3..9", "layer9.attn_norm")
    plan = suggest(Suspicion(norm, first.inside, ()), set())
    assert plan == Plan(("attn_norm", "post_ffn_residual"), range(3, 10))


def test_a_single_stage_needs_nothing_more() -> None:
    out = Place(0, 3, "ffn_out")
    assert suggest(Suspicion(out, (out,), (Place(0, 3, "ffn_swigl"),)), {out}) is None


def test_a_step_is_recorded_again() -> None:
    assert options_of(arguments_for(Plan(("attn_norm",), range(2)), 3)) == "--taps attn_norm --layers 0..2 --max-tokens 4 --steps 3..4"


@pytest.mark.contract("BLAME-SUGGEST-1")
@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("start", ["--taps lm_head", "--taps post_ffn_residual,lm_head --layers 0..4", "--taps attn_out --layers 2..3"])
def test_following_the_suggestions(start: str, with_model: bool, tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model(family="qwen3moe", layers=4)
    override = ["--override-kv", "qwen3moe.attention.layer_norm_rms_epsilon=float:0.3"]
    options: str | None = start
    seen = []
    while options is not None:
        seen.append(options)
        assert len(seen) < 5, seen
        for name, extra in (("a", []), ("b", override)):
            arguments = ["--target", "reference", "--tokens", ",".join(map(str, TOKENS)), *options.split()]
            assert run_cli("run", path, *arguments, "-o", tmp_path / f"{name}{len(seen)}", *extra).code == 0
        traces = [aprgraph.Trace.open(tmp_path / f"{name}{len(seen)}") for name in ("a", "b")]
        report = diff(*traces, model=path if with_model else None)
        options = options_of(suggested_arguments(report, traces))
    assert report.first[0].key == (0, 0, "attn_norm")
    assert len(report.first[0].region) == 1


def test_following_the_suggestions_of_an_audit(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model(layers=3)
    compiled = aprgraph.load(path, {"llama.rope.freq_base": 500.0}).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("post_ffn_residual", "0..3", tokens=TOKENS, directory=tmp_path / "one")
    options = options_of(suggested_arguments_of(audit(trace, path), trace))
    assert options is not None
    _, taps, _, layers = options.split()
    trace = compiled.run(taps, layers, tokens=TOKENS, directory=tmp_path / "two")
    found = audit(trace, path)
    assert [local.label for local in found.wrong][:2] == ["layer 0 q_post_rope", "layer 0 k_post_rope"]
    assert suggested_arguments_of(found, trace) is None

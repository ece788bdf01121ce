"""One error, two readers: a Python program is told of arguments, the command line of options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.cli.option_words import option_words
from aprgraph.graph.arguments import ARCHITECTURES, LAYERS, MAX_TOKENS, OVERRIDES, TAPS
from aprgraph.graph.errors import PlanError
from aprgraph.graph.tap_plan import parse_plan
from tests.support.cli import fails


def test_arguments_are_named_by_who_reads_them() -> None:
    error = PlanError(LAYERS.given("0..2", "'0..2'"), ": nothing there; add ", TAPS, " or ", OVERRIDES.given("a=int:1", "{'a': 1}"))
    assert str(error) == "layers='0..2': nothing there; add taps= or overrides={'a': 1}"
    assert error.text(option_words) == "--layers 0..2: nothing there; add --taps or --override-kv a=int:1"
    assert [option_words(one) for one in (ARCHITECTURES, MAX_TOKENS.given(3))] == ["--arch", "--max-tokens 3"]


def test_the_same_error_in_both_fronts(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(PlanError, match=r"^taps=: unknown stage 'x'"):
        parse_plan("x")
    assert fails("run", tiny_model(), "--taps", "x").startswith("--taps: unknown stage 'x'")

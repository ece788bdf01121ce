"""Regular expressions that somebody gave."""

from __future__ import annotations

import pytest

from aprgraph.graph.regular_expression import compile_expression


@pytest.mark.contract("ERR-ROOM-1")
def test_an_expression_that_would_take_long_to_compile_is_refused() -> None:
    assert compile_expression("x" * 10_000).fullmatch("x" * 10_000)
    with pytest.raises(ValueError, match="it has 10,001 characters, expected at most 10,000"):
        compile_expression("x" * 10_001)

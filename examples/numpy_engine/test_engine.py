"""The engine computes what the model file says; docs/testing.md walks through this."""

from __future__ import annotations

from typing import Any

from engine import Engine

from aprgraph.testing import assert_right


def test_two_layers(aprgraph_model: Any) -> None:
    """Each stage of two layers, given what the engine itself computed before it."""
    tokens = aprgraph_model.encode("What is 2+2?")
    engine = Engine(str(aprgraph_model.model.path), layers=2)
    assert_right(engine.forward(tokens), aprgraph_model, tokens=tokens)

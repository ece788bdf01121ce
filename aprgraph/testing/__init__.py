"""Assertions for tests of an engine, whose message is the verdict; docs/testing.md walks through one.

    from aprgraph.testing import assert_alike, assert_right

    def test_my_engine(aprgraph_model):
        tokens = aprgraph_model.encode("What is 2+2?")
        assert_right(my_engine.dump(tokens), aprgraph_model, tokens=tokens)

``aprgraph_model`` is a fixture of the pytest plugin (aprgraph/pytest_plugin.py); the assertions work under any runner.
"""

from __future__ import annotations

from aprgraph.testing.assertions import assert_alike, assert_right
from aprgraph.testing.judgement import Judgement

__all__ = ["Judgement", "assert_alike", "assert_right"]

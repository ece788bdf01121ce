"""Faults in models of the family `qwen3vlmoe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestQwen3VlMoe(FaultTests):
    family = "qwen3vlmoe"

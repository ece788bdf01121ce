"""Faults in models of the family `qwen3vl`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestQwen3Vl(FaultTests):
    family = "qwen3vl"

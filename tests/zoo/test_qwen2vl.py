"""Faults in models of the family `qwen2vl`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestQwen2Vl(FaultTests):
    family = "qwen2vl"

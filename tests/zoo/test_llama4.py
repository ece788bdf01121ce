"""Faults in models of the family `llama4`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestLlama4(FaultTests):
    family = "llama4"

"""Faults in models of the family `gemma`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGemma(FaultTests):
    family = "gemma"

"""Faults in models of the family `gemma4-experts`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGemma4Experts(FamilyTests):
    family = "gemma4-experts"

"""Faults in models of the family `gemma4`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGemma4(FamilyTests):
    family = "gemma4"

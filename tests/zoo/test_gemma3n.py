"""Faults in models of the family `gemma3n`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGemma3n(FamilyTests):
    family = "gemma3n"

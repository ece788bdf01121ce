"""Faults in models of the family `gemma3`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGemma3(FamilyTests):
    family = "gemma3"

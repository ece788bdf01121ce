"""Faults in models of the family `gemma2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGemma2(FamilyTests):
    family = "gemma2"

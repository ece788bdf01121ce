"""Faults in models of the family `llama`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestLlama(FamilyTests):
    family = "llama"

"""Faults in models of the family `cohere2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestCohere2(FamilyTests):
    family = "cohere2"

"""Faults in models of the family `granite`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGranite(FamilyTests):
    family = "granite"

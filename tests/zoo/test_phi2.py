"""Faults in models of the family `phi2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestPhi2(FamilyTests):
    family = "phi2"

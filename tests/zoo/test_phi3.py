"""Faults in models of the family `phi3`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestPhi3(FamilyTests):
    family = "phi3"

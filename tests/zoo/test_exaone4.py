"""Faults in models of the family `exaone4`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestExaone4(FamilyTests):
    family = "exaone4"

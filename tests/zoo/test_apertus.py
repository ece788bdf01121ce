"""Faults in models of the family `apertus`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestApertus(FamilyTests):
    family = "apertus"

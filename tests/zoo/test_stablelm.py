"""Faults in models of the family `stablelm`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestStablelm(FamilyTests):
    family = "stablelm"

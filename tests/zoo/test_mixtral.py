"""Faults in models of the family `mixtral`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestMixtral(FamilyTests):
    family = "mixtral"

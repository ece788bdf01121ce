"""Faults in models of the family `ernie4_5`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestErnie45(FamilyTests):
    family = "ernie4_5"

"""Faults in models of the family `olmo2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestOlmo2(FamilyTests):
    family = "olmo2"

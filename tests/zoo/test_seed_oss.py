"""Faults in models of the family `seed_oss`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestSeedOss(FamilyTests):
    family = "seed_oss"

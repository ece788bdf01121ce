"""Faults in models of the family `seed_oss`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestSeedOss(FaultTests):
    family = "seed_oss"

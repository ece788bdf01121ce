"""Faults in models of the family `granitehybrid`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGraniteHybrid(FaultTests):
    family = "granitehybrid"

"""Faults in models of the family `phi2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestPhi2(FaultTests):
    family = "phi2"

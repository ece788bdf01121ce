"""Faults in models of the family `granitemoe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGraniteMoe(FaultTests):
    family = "granitemoe"

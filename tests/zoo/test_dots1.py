"""Faults in models of the family `dots1`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestDots1(FaultTests):
    family = "dots1"

"""Faults in models of the family `apertus`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestApertus(FaultTests):
    family = "apertus"

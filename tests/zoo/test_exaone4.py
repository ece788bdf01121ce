"""Faults in models of the family `exaone4`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestExaone4(FaultTests):
    family = "exaone4"

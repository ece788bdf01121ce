"""Faults in models of the family `arcee`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestArcee(FaultTests):
    family = "arcee"

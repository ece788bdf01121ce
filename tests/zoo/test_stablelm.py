"""Faults in models of the family `stablelm`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestStablelm(FaultTests):
    family = "stablelm"

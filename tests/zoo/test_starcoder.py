"""Faults in models of the family `starcoder`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestStarCoder(FaultTests):
    family = "starcoder"

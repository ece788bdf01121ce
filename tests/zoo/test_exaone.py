"""Faults in models of the family `exaone`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestExaone(FaultTests):
    family = "exaone"

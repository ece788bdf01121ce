"""Faults in models of the family `afmoe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestAfmoe(FaultTests):
    family = "afmoe"

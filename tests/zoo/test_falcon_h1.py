"""Faults in models of the family `falcon-h1`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestFalconH1(FaultTests):
    family = "falcon-h1"

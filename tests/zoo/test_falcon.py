"""Faults in models of the family `falcon`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestFalcon(FaultTests):
    family = "falcon"

"""Faults in models of the family `deci`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestDeci(FaultTests):
    family = "deci"

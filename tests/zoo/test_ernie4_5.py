"""Faults in models of the family `ernie4_5`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestErnie45(FaultTests):
    family = "ernie4_5"

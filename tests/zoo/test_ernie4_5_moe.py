"""Faults in models of the family `ernie4_5-moe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestErnie45Moe(FaultTests):
    family = "ernie4_5-moe"

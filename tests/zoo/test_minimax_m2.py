"""Faults in models of the family `minimax-m2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMiniMaxM2(FaultTests):
    family = "minimax-m2"

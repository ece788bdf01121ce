"""Faults in models of the family `minicpm3`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMiniCpm3(FaultTests):
    family = "minicpm3"

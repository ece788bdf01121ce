"""Faults in models of the family `mamba2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMamba2(FaultTests):
    family = "mamba2"

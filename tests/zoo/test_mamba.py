"""Faults in models of the family `mamba`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMamba(FaultTests):
    family = "mamba"

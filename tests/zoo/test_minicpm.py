"""Faults in models of the family `minicpm`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMiniCpm(FaultTests):
    family = "minicpm"

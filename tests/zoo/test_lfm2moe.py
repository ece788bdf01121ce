"""Faults in models of the family `lfm2moe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestLfm2Moe(FaultTests):
    family = "lfm2moe"

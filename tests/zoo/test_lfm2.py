"""Faults in models of the family `lfm2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestLfm2(FaultTests):
    family = "lfm2"

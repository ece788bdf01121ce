"""Faults in models of the family `olmoe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestOlmoe(FaultTests):
    family = "olmoe"

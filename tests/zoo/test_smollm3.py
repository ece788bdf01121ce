"""Faults in models of the family `smollm3`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestSmollm3(FaultTests):
    family = "smollm3"

"""Faults in models of the family `starcoder2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestStarcoder2(FaultTests):
    family = "starcoder2"

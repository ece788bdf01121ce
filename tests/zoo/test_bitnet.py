"""Faults in models of the family `bitnet`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestBitnet(FaultTests):
    family = "bitnet"

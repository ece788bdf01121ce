"""Faults in models of the family `phimoe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestPhiMoe(FaultTests):
    family = "phimoe"

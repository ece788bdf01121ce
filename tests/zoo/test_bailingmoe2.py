"""Faults in models of the family `bailingmoe2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestBailingMoe2(FaultTests):
    family = "bailingmoe2"

"""Faults in models of the family `exaone-moe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestExaoneMoe(FaultTests):
    family = "exaone-moe"

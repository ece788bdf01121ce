"""Faults in models of the family `mimo2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMimo2(FaultTests):
    family = "mimo2"

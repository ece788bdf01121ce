"""Faults in models of the family `jais2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestJais2(FaultTests):
    family = "jais2"

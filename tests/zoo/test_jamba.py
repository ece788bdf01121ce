"""Faults in models of the family `jamba`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestJamba(FaultTests):
    family = "jamba"

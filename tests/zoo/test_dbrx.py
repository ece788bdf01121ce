"""Faults in models of the family `dbrx`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestDbrx(FaultTests):
    family = "dbrx"

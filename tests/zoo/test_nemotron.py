"""Faults in models of the family `nemotron`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestNemotron(FaultTests):
    family = "nemotron"

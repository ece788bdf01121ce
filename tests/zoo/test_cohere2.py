"""Faults in models of the family `cohere2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestCohere2(FaultTests):
    family = "cohere2"

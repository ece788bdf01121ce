"""Faults in models of the family `bert`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestBert(FaultTests):
    family = "bert"

"""Faults in models of the family `nomic-bert`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestNomicBert(FaultTests):
    family = "nomic-bert"

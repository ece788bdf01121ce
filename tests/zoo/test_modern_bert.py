"""Faults in models of the family `modern-bert`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestModernBert(FaultTests):
    family = "modern-bert"

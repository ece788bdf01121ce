"""Faults in models of the family `internlm2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestInternLm2(FaultTests):
    family = "internlm2"

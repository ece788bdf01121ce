"""Faults in models of the family `gptneox`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGptNeoX(FaultTests):
    family = "gptneox"

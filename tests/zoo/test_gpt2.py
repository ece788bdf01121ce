"""Faults in models of the family `gpt2`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGpt2(FaultTests):
    family = "gpt2"

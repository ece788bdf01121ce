"""Faults in models of the family `mistral3`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestMistral3(FaultTests):
    family = "mistral3"

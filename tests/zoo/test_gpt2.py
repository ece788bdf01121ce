"""Faults in models of the family `gpt2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGpt2(FamilyTests):
    family = "gpt2"

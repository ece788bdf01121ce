"""Faults in models of the family `smollm3`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestSmollm3(FamilyTests):
    family = "smollm3"

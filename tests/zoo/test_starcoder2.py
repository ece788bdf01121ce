"""Faults in models of the family `starcoder2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestStarcoder2(FamilyTests):
    family = "starcoder2"

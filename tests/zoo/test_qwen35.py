"""Faults in models of the family `qwen35`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen35(FamilyTests):
    family = "qwen35"

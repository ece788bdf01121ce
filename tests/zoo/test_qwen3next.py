"""Faults in models of the family `qwen3next`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen3next(FamilyTests):
    family = "qwen3next"

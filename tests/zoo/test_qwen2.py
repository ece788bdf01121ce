"""Faults in models of the family `qwen2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen2(FamilyTests):
    family = "qwen2"

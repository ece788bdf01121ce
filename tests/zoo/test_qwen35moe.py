"""Faults in models of the family `qwen35moe`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen35moe(FamilyTests):
    family = "qwen35moe"

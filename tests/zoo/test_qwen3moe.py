"""Faults in models of the family `qwen3moe`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen3moe(FamilyTests):
    family = "qwen3moe"

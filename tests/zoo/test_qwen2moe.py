"""Faults in models of the family `qwen2moe`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen2moe(FamilyTests):
    family = "qwen2moe"

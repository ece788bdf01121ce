"""Faults in models of the family `qwen3`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestQwen3(FamilyTests):
    family = "qwen3"

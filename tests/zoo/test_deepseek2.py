"""Faults in models of the family `deepseek2`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestDeepSeek2(FamilyTests):
    family = "deepseek2"

"""Faults in models of the family `mistral3`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestMistral3(FamilyTests):
    family = "mistral3"

"""Faults in models of the family `glm4`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGlm4(FamilyTests):
    family = "glm4"

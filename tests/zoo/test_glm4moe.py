"""Faults in models of the family `glm4moe`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGlm4moe(FamilyTests):
    family = "glm4moe"

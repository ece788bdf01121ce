"""Faults in models of the family `gpt-oss`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestGptOss(FamilyTests):
    family = "gpt-oss"

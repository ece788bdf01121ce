"""Faults in models of the family `command-r`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestCommandR(FamilyTests):
    family = "command-r"

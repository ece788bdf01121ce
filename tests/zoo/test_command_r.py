"""Faults in models of the family `command-r`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestCommandR(FaultTests):
    family = "command-r"

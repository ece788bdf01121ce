"""Faults in models of the family `deepseek`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestDeepSeek(FaultTests):
    family = "deepseek"

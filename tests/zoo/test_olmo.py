"""Faults in models of the family `olmo`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestOlmo(FaultTests):
    family = "olmo"

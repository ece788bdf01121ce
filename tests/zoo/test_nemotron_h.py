"""Faults in models of the family `nemotron_h`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestNemotronH(FaultTests):
    family = "nemotron_h"

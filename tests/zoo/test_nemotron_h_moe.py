"""Faults in models of the family `nemotron_h_moe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestNemotronHMoe(FaultTests):
    family = "nemotron_h_moe"

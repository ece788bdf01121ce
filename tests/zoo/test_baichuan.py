"""Faults in models of the family `baichuan`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestBaichuan(FaultTests):
    family = "baichuan"

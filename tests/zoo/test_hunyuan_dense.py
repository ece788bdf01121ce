"""Faults in models of the family `hunyuan-dense`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestHunyuanDense(FaultTests):
    family = "hunyuan-dense"

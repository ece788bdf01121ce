"""Faults in models of the family `hunyuan-dense`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestHunyuanDense(FamilyTests):
    family = "hunyuan-dense"

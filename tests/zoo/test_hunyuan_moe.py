"""Faults in models of the family `hunyuan-moe`."""

from __future__ import annotations

from tests.zoo.suite import FamilyTests


class TestHunyuanMoe(FamilyTests):
    family = "hunyuan-moe"

"""Faults in models of the family `hunyuan-moe`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestHunyuanMoe(FaultTests):
    family = "hunyuan-moe"

"""Faults in models of the family `qwen3` that give the embedding of the last position."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestQwen3Embedding(FaultTests):
    family = "qwen3-embedding"

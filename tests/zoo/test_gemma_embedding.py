"""Faults in models of the family `gemma-embedding`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestGemmaEmbedding(FaultTests):
    family = "gemma-embedding"

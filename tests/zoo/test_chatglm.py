"""Faults in models of the family `chatglm`."""

from __future__ import annotations

from tests.zoo.suite import FaultTests


class TestChatGlm(FaultTests):
    family = "chatglm"

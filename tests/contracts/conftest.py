"""Fixtures of the contract tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.cli import HANDLED


@pytest.fixture(autouse=True)
def _keep_signals() -> Iterator[None]:
    """Some of these tests run the command line in this process, and it sets what a broken pipe does."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

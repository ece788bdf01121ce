"""Elementwise ops as a user's file brings them, known for as long as a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aprgraph.graph.ops import OPS


@contextmanager
def own_ops() -> Iterator[None]:
    """What is declared within is forgotten afterwards."""
    before = dict(OPS)
    try:
        yield
    finally:
        OPS.clear()
        OPS.update(before)

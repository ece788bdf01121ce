"""Families, stages and ops that a test brings, gone after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from aprgraph.graph import stages
from aprgraph.graph.families import FAMILIES, registry
from tests.support.own_ops import own_ops


@contextmanager
def own_families() -> Iterator[None]:
    """Within, a test may register what it likes."""
    table, order, modules = list(stages.STAGES), dict(stages._ORDER), set(sys.modules)
    declared = set(stages._DECLARED_BY_GRAPHS)
    try:
        with own_ops(), mock.patch.dict(FAMILIES), mock.patch.object(registry, "_INSTALLED", set()):
            yield
    finally:
        stages.STAGES[:] = table
        stages.STAGE_BY_NAME.clear()
        stages.STAGE_BY_NAME.update((stage.name, stage) for stage in table)
        stages._ORDER.clear()
        stages._ORDER.update(order)
        stages._DECLARED_BY_GRAPHS.clear()
        stages._DECLARED_BY_GRAPHS.update(declared)
        for name in set(sys.modules) - modules:
            if name.startswith("aprgraph_family_"):
                del sys.modules[name]

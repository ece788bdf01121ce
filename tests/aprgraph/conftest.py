"""A cache of their own for the tests, and the compiled models that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aprgraph.api import CompiledModel
from tests.support.compiled import compiled, shared_model, use_cache


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Artifacts are written in pytest's own folders."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        use_cache(patch, place)
        yield place


@pytest.fixture(scope="session")
def model_path(tiny_model: Callable[..., Path]) -> Path:
    """See ``shared_model``."""
    return shared_model(tiny_model)


@pytest.fixture(scope="session")
def tiny(model_path: Path) -> CompiledModel:
    """``model_path`` on the LLVM target."""
    return compiled(model_path)


@pytest.fixture(scope="session")
def reference(model_path: Path) -> CompiledModel:
    """``model_path`` on the reference target."""
    return compiled(model_path, "reference")

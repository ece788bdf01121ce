"""Compiled models that tests share: compiling takes seconds, and no test changes what it gets."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest

from aprgraph.api import CompiledModel, load, open_artifact
from tests.support.kept import KEPT

#: Kernels that were compiled for a test, for all tests and processes, and for the next time: by the product's own cache.
SHARED_CACHE = KEPT

LAYERS = 3
#: Options of the model that most tests run: three layers, biases, two block formats, a vocabulary and places that suit no vector.
SHARED: dict[str, Any] = {
    "format": "Q8_0", "formats": {"attn_v.weight": "F16"}, "layers": LAYERS, "qkv_bias": True, "alignment": 8, "vocabulary": 291,
}  # fmt: skip


def use_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take ``folder`` for the user's cache; its kernels are those that all tests share."""
    folder.mkdir(parents=True, exist_ok=True)
    (SHARED_CACHE / "kernels").mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(SHARED_CACHE / "kernels")
    patch.setenv("APRGRAPH_CACHE", str(folder))


def shared_model(tiny_model: Callable[..., Path]) -> Path:
    """The model that most tests run."""
    return tiny_model(**SHARED)


@lru_cache(maxsize=1)
def _directory() -> Path:
    temporary = tempfile.TemporaryDirectory(prefix="aprgraph-tests-")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)


def _place(model: Path, target: str) -> Path:
    return _directory() / f"{model.stem}.{target}.aprg"


@cache
def compiled(model: Path, target: str = "llvm") -> CompiledModel:
    """The model of a file, compiled once for all tests."""
    place = _place(model, target)
    return open_artifact(place, model) if place.exists() else load(model).compile(target, place)

"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The repository's folder `aprgraph` holds only the front door; the installed package, which maps the other three folders
# into it, has to be found first. pytest and `python -m` both put the repository in front, pytest before every test file.
_ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT] + [str(_ROOT)]
import aprgraph  # noqa: E402, F401 -- with the path above; what is imported once stays
from tests.support.compiled import SHARED_CACHE  # noqa: E402
from tests.support.tiny import write_tiny_model  # noqa: E402

pytest_plugins = ["tests.plugin_contracts", "tests.plugin_memory", "tests.plugin_order", "tests.plugin_sweep"]

# Nothing is written into the user's own cache, and processes that tests start share what this one compiled.
os.environ["APRGRAPH_CACHE"] = str(SHARED_CACHE)
os.environ["APRGRAPH_TRUST"] = str(SHARED_CACHE / "trust")
# A defect of our own shows its traceback where a test failed.
os.environ["APRGRAPH_DEBUG"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected lives to the end: looking through it for garbage is a fifth of what collecting takes, and a
    thirtieth of what tests take.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model(**options)``: the path of a tiny random model; see ``write_tiny_model`` for the options.

    A model is written once per session and set of options, so tests must not change the file.
    """
    directory = tmp_path_factory.mktemp("tiny")
    written: dict[str, Path] = {}

    def make(**options: object) -> Path:
        key = repr(sorted(options.items()))
        if key not in written:
            written[key] = write_tiny_model(directory / f"tiny-{len(written)}.gguf", **options)  # type: ignore[arg-type]
        return written[key]

    return make

"""What runs on a real GPU: `make test-gpu`. Without one every test here is skipped, and says what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from aprgraph.codegen.cuda.compiler import find_compiler
from aprgraph.graph.errors import DeviceError, ToolchainError
from aprgraph.runtime.cuda.driver import Gpu, find_gpu, load_driver
from tests.support.compiled import use_cache


@cache
def _missing() -> str | None:
    try:
        find_gpu(load_driver(), 0)
        find_compiler()
    except (DeviceError, ToolchainError) as error:
        return f"no GPU to test on: {error}"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """For the tests of this folder; here, so that the report names the reason once."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The first GPU of this machine."""
    return find_gpu(load_driver(), 0)


@pytest.fixture(scope="session", autouse=True)
def artifact_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Artifacts are written in pytest's own folders."""
    with pytest.MonkeyPatch.context() as patch:
        use_cache(patch, tmp_path_factory.mktemp("cache"))
        yield

"""Processes that share the tests get the longest files first, so that they end together.

pytest-xdist hands out whole files in the order in which they were collected (``--dist loadfile --no-loadscope-reorder``). How
long each took is kept in pytest's own cache folder from one run to the next; a fresh clone begins with what is written here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

#: Where the seconds are kept, by the expression of markers: of `make test`, and of `make sweep`.
_KEYS = {"not sweep and not whole": "aprgraph/seconds", "sweep": "aprgraph/sweep-seconds"}
_INPUT = "aprgraph_seconds"
#: Of the files that take longest, in seconds; some compile more than anybody has compiled before where no cache is there yet.
_AT_FIRST = {
    "tests/aprgraph/test_numbers.py": 70,
    "tests/aprgraph/test_family_formats.py": 40,
    "tests/codegen/kernels/cuda/test_linear.py": 40,
    "tests/codegen/kernels/cpu/test_linear.py": 25,
    "tests/codegen/kernels/cuda/test_experts.py": 25,
    "tests/runtime/test_other_places.py": 25,
    "tests/codegen/kernels/cuda/test_attention_variants.py": 22,
    "tests/codegen/kernels/cuda/test_nonfinite.py": 20,
    "tests/codegen/kernels/cuda/test_attention.py": 20,
    "tests/aprgraph/test_checkpoint_numbers.py": 20,
    "tests/runtime/test_blame_audit.py": 18,
    "tests/aprgraph/test_interrupts.py": 16,
    "tests/aprgraph/test_app.py": 15,
    "tests/aprgraph/test_sweep.py": 14,
    "tests/aprgraph/test_generation.py": 13,
    "tests/aprgraph/test_run_split.py": 13,
    "tests/codegen/kernels/cpu/test_nonfinite.py": 12,
    "tests/runtime/test_remote.py": 11,
    "tests/contracts/test_recording.py": 10,
    "tests/runtime/test_diff_noise_models.py": 9,
    "tests/codegen/test_artifact.py": 9,
    "tests/codegen/kernels/cpu/test_experts.py": 8,
    "tests/codegen/kernels/cpu/test_attention.py": 8,
    "tests/codegen/kernels/cpu/test_attention_variants.py": 8,
    "tests/aprgraph/test_cuda_run.py": 8,
    "tests/runtime/test_hybrid_models.py": 8,
    "tests/contracts/test_steps.py": 8,
    "tests/runtime/test_readings.py": 8,
    "tests/zoo/test_gemma3n.py": 8,
    "tests/codegen/test_kernel_cache.py": 7,
    "tests/codegen/kernels/cpu/test_recurrent.py": 6,
    "tests/runtime/test_blame_two_models.py": 6,
    "tests/runtime/test_float_range.py": 6,
    "tests/runtime/test_weights.py": 6,
    "tests/runtime/test_check.py": 6,
    "tests/runtime/test_blame_repro.py": 6,
}
_ZOO = ("tests/zoo/test_", 3)


def _read(config: Any) -> dict[str, float]:
    """The seconds that are kept of runs with this expression of markers."""
    key, cache = _KEYS.get(config.getoption("markexpr")), getattr(config, "cache", None)  # there is none under -p no:cacheprovider
    found: dict[str, float] = {} if key is None or cache is None else cache.get(key, {})
    return found


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _at_first(file: str) -> float:
    return _AT_FIRST.get(file, _ZOO[1] if file.startswith(_ZOO[0]) else 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All processes have to order alike, so they are told, rather than look themselves."""
    node.workerinput[_INPUT] = _read(node.config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A single process keeps pytest's own order."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    if workerinput is not None:
        seconds = workerinput[_INPUT]
        items.sort(key=lambda item: -seconds.get(_file(item.nodeid), _at_first(_file(item.nodeid))))  # keeps files together: it is stable


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Clock(config), "file-clock")


class _Clock:
    """Adds up what each file took, and keeps it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[_file(report.nodeid)] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        key = _KEYS.get(self._config.getoption("markexpr"))
        whole = not any("::" in argument for argument in self._config.args) and not self._config.getoption("keyword")
        cache = getattr(self._config, "cache", None)
        if key is not None and cache is not None and whole and self._seconds:
            kept = _read(self._config) | {file: round(seconds, 1) for file, seconds in self._seconds.items()}
            cache.set(key, {file: seconds for file, seconds in kept.items() if (self._config.rootpath / file).is_file()})

"""The pytest side of contracts: the marker ``contract``, and the record of what real runs found.

A test that decides falsifiers of ``contracts/*.yaml`` says so: ``@pytest.mark.contract("APRT-HEADER-1")``. Outcomes go to
``build/contracts.json``, where `aprgraph contracts` reads them; a partial run changes the results of what ran.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aprgraph.contract_files import FOLDER, SCHEMA
from aprgraph.contract_results import TestResult, digest_of_files, read_record, write_record
from aprgraph.graph.errors import AprgraphError

_MARKER = "contract"


@dataclass(eq=False)
class Collection:
    """What this process has collected: the ``marks`` of each marked test, and the ``files``, skipped ones too."""

    marks: dict[str, list[str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.files.add(report.nodeid)


COLLECTION = pytest.StashKey[Collection]()


def describe_commit(checkout: Path) -> str | None:
    """The commit that ``checkout`` is at, with ``-dirty`` where files differ from it; None outside git.

    Whoever runs the tests of a checkout runs its code anyway; `aprgraph contracts`, which only reads, starts no git.
    """
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-marks", metavar="FILE", type=Path, help="write which falsifiers each collected test names, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARKER}(id, ...): the test decides these falsifiers of contracts/*.yaml")
    config.stash[COLLECTION] = Collection()
    config.pluginmanager.register(config.stash[COLLECTION], "contract-collection")
    if not hasattr(config, "workerinput") and (config.rootpath / FOLDER / SCHEMA).is_file():
        config.pluginmanager.register(_Recorder(config), "contract-recorder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before anything is deselected: ids travel with the reports, and to the file that ``--contract-marks`` names."""
    marks = config.stash[COLLECTION].marks
    for item in items:
        for mark in item.iter_markers(_MARKER):
            ids = marks.setdefault(item.nodeid, [])
            ids += [str(one) for one in mark.args if str(one) not in ids]
        item.user_properties += [(_MARKER, one) for one in marks.get(item.nodeid, [])]
    path: Path | None = config.getoption("--contract-marks")
    if path is not None:
        path.write_text(json.dumps(marks), encoding="utf-8")


class _Recorder:
    """Gathers the outcomes of one session and merges them into the record at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected: set[str] = set()
        self._unreadable: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._falsifiers: dict[str, tuple[str, ...]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._collected = {item.nodeid for item in items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._unreadable.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ids = tuple(str(value) for name, value in report.user_properties if name == _MARKER)
        if not ids:
            return
        self._falsifiers[report.nodeid] = ids
        # An expected failure is a failure: what the contract says did not hold.
        if report.failed or (report.skipped and hasattr(report, "wasxfail")):
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        if self._config.getoption("collectonly"):
            return
        try:
            before = read_record(self._config.rootpath)
        except AprgraphError:  # damaged; what ran now is worth more
            before = {}
        after = {test: result for test, result in before.items() if not self._is_gone(test)}
        commit, files = describe_commit(self._config.rootpath), digest_of_files(self._config.rootpath)
        for test, result in after.items():
            if test.partition("::")[0] in self._unreadable:
                after[test] = TestResult("failed", result.falsifiers, commit, files)
        after |= {test: TestResult(outcome, self._falsifiers[test], commit, files) for test, outcome in self._outcomes.items()}
        if after != before:
            write_record(self._config.rootpath, after)

    def _is_gone(self, test: str) -> bool:
        """Whether a recorded test does not exist any more; undecided where its file was not collected whole."""
        file = test.partition("::")[0]
        if not (self._config.rootpath / file).is_file():
            return True
        in_part = self._config.getoption("lf", default=False) or any("::" in argument for argument in self._config.args)
        collected = not in_part and any(one.startswith(f"{file}::") for one in self._collected)
        return collected and test not in self._collected

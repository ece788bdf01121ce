"""The pytest plugin: the fixture ``aprgraph_model``, kept pages, properties in JUnit files, and what GitHub shows.

It keeps record of what the assertions of aprgraph.testing find while a test runs. Every run of pytest loads it where aprgraph is
installed, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aprgraph.testing.judgement import LISTENERS, Judgement
from aprgraph.testing.records import MODEL_MISSING, Record, page_name
from aprgraph.testing.records import read as records_of

if TYPE_CHECKING:
    from aprgraph.api import LoadedModel


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and the key of the configuration file."""
    group = parser.getgroup("aprgraph", "aprgraph: tests of language models' forward passes")
    group.addoption("--aprgraph-model", metavar="MODEL", help="the model that the fixture aprgraph_model loads")
    group.addoption("--aprgraph-html", metavar="DIR", help="keep what each assertion of aprgraph.testing finds as an HTML page in DIR")
    group.addoption("--aprgraph-summary", metavar="FILE", help="append the verdicts to FILE in Markdown, such as $GITHUB_STEP_SUMMARY")
    parser.addini("aprgraph_model", "the model that the fixture aprgraph_model loads, by its path from this file")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of pages before any test has run for nothing."""
    if not hasattr(config, "workerinput"):  # pytest-xdist's processes hand their reports on
        config.pluginmanager.register(_Summary(config), "aprgraph-summary")
    folder = config.getoption("aprgraph_html")
    if folder is not None:
        try:
            _from_here(config, folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(f"--aprgraph-html {folder}: no folder can be made there: {error.strerror}") from None


def _from_here(config: pytest.Config, path: str) -> Path:
    return config.invocation_params.dir / path


@pytest.fixture(scope="session")
def aprgraph_model(pytestconfig: pytest.Config) -> LoadedModel:
    """The model that ``--aprgraph-model`` or ``aprgraph_model`` in the configuration file names; what is to be known of it are warnings."""
    from aprgraph.api import load  # noqa: PLC0415 -- what takes time
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    given, configured = pytestconfig.getoption("aprgraph_model"), pytestconfig.getini("aprgraph_model")
    if not given and not configured:
        pytest.fail(MODEL_MISSING, pytrace=False)
    beside = pytestconfig.rootpath if pytestconfig.inipath is None else pytestconfig.inipath.parent
    try:
        loaded = load(_from_here(pytestconfig, given) if given else beside / configured)
    except AprgraphError as error:
        pytest.fail(str(error), pytrace=False)
    for notice in loaded.model.notices:
        warnings.warn(notice, stacklevel=1)
    return loaded


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Listen while a test runs, its fixtures among it."""
    listener = partial(_keep, item)
    LISTENERS.append(listener)
    try:
        yield
    finally:
        LISTENERS.remove(listener)


def _keep(item: pytest.Item, judgement: Judgement) -> None:
    """Keep what was found among the properties of the test, which JUnit files and the process of the summary get; and its page."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    left_open, page = list(judgement.reservations), None
    folder = item.config.getoption("aprgraph_html")
    if folder is not None:
        page = os.path.join(folder, page_name(item.nodeid, len(records_of(item.nodeid, item.user_properties))))  # noqa: PTH118 -- as it was given
        try:
            judgement.write_page(_from_here(item.config, page))
        except AprgraphError as error:  # the verdict is worth more than its page
            left_open.append(f"its page could not be kept: {error}")
            page = None
    found = Record(item.nodeid, judgement.sentence, judgement.exit_code, tuple(left_open), page, judgement.parts)
    item.user_properties += found.properties


class _Summary:
    """In the one process that reports: gathers the records of all tests, and says at the end what their verdicts left open."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._records: list[Record] = []
        self._annotations: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":  # whose properties are all that the test has
            return
        found = records_of(report.nodeid, report.user_properties)
        self._records += found
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from aprgraph.testing.github import annotation  # noqa: PLC0415

            file, line, _ = report.location
            self._annotations += [annotation(one, self._config.rootpath / file, (line or 0) + 1) for one in found if one.exit_code]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        told = [one for one in self._records if one.left_open and not one.exit_code]
        pages = sum(one.page is not None for one in self._records)
        if told or pages:
            terminalreporter.section("aprgraph")
        for one in told:
            terminalreporter.write_line(f"{one.test} holds; {'; '.join(one.left_open)}")
        if pages:
            terminalreporter.write_line(f"{pages} page{'' if pages == 1 else 's'} in {self._config.getoption('aprgraph_html')}")
        for line in self._annotations:
            terminalreporter.write_line(line)
        self._write_summary(terminalreporter)

    def _write_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        file = self._config.getoption("aprgraph_summary")
        if file is None or not self._records:
            return
        from aprgraph.testing.github import summary  # noqa: PLC0415

        try:
            with _from_here(self._config, file).open("a", encoding="utf-8") as stream:
                stream.write(summary(self._records))
        except OSError as error:
            terminalreporter.write_line(f"aprgraph: the summary cannot be written to {file}: {error.strerror}", red=True)

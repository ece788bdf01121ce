"""Gives the tests of a family their faults: the rows of its section, since asking the models would cost every collection seconds.

suite.py holds that the rows are all the faults that the family can have.
"""

from __future__ import annotations

import pytest

from tests.zoo.suite import PAGE, FaultTests
from tests.zoo.table import parse_rows, parse_sections


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" in metafunc.fixturenames and metafunc.cls is not None and issubclass(metafunc.cls, FaultTests):
        sections = parse_sections(PAGE.read_text(encoding="utf-8"))
        metafunc.parametrize("fault", [row.fault for row in parse_rows(sections.get(metafunc.cls.family, ""))])

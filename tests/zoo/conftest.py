"""Gives the tests of a family their faults."""

from __future__ import annotations

import pytest

from tests.zoo.results import faults_of
from tests.zoo.suite import FamilyTests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" in metafunc.fixturenames and metafunc.cls is not None and issubclass(metafunc.cls, FamilyTests):
        metafunc.parametrize("fault", [fault.name for fault in faults_of(metafunc.cls.family)])

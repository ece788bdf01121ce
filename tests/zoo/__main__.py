"""Runs the whole zoo and prints its table."""

from __future__ import annotations

from tests import conftest  # noqa: F401 -- finds the installed package before the folder of its name
from tests.zoo.table import page

print(page(), end="")

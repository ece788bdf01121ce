"""Which of the names that are known somebody may have meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

#: Below this share of letters in common two names are not alike.
_ALIKE = 0.78
#: So many files of one name are named.
_NAMED = 3


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is nearly ``name``; None if none is."""
    near = difflib.get_close_matches(name.strip(), list(known), n=1, cutoff=_ALIKE)
    return near[0] if near and near[0] != name else None


def did_you_mean_one_of(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'prune'?)``, for an error about an unknown name; empty if none of ``known`` is near."""
    near = near_name(name, known)
    return f" (did you mean {near!r}?)" if near else ""


def did_you_mean_path(path: Path) -> str:
    """`` (did you mean 'model.gguf'?)``, for a path where nothing lies: what has its name and an ending, or nearly its name; else empty."""
    try:
        if os.path.lexists(path):
            return ""
        beside = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return ""
    with_ending = [repr(str(path.parent / name)) for name in beside if Path(name).stem == path.name]
    return f" (did you mean {' or '.join(with_ending[:_NAMED])}?)" if with_ending else did_you_mean_one_of(path.name, beside)

"""Which of the names that are known somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Below this share of letters in common two names are not alike.
_ALIKE = 0.78


def did_you_mean_one_of(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'prune'?)``, for an error about an unknown name; empty if none of ``known`` is near."""
    near = difflib.get_close_matches(name.strip(), list(known), n=1, cutoff=_ALIKE)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""

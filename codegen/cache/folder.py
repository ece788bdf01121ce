"""The folder of the user's cache and its limit in bytes, from environment variables."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aprgraph.graph.errors import AprgraphError, shown

FOLDER_VARIABLE = "APRGRAPH_CACHE"
SIZE_VARIABLE = "APRGRAPH_CACHE_SIZE"
#: The folder of compiled kernels in the cache (kernels.py).
KERNELS_FOLDER = "kernels"
#: 1 GB: some 30,000 kernels of 15 to 75 KB. A model has 20 to 40.
DEFAULT_SIZE = 10**9

_SIZE = re.compile(r"(\d{1,15})\s*([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def cache_folder() -> Path | None:
    """The folder of the user's cache: APRGRAPH_CACHE, else ``aprgraph`` in XDG_CACHE_HOME or ~/.cache.

    None if the user has no home folder and no variable is set.
    """
    root = os.environ.get(FOLDER_VARIABLE)
    if root:
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprgraph"
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None


def size_limit() -> int:
    """The limit of the cache in bytes: APRGRAPH_CACHE_SIZE, such as 500M or 2G (powers of 1000).

    With 0, no kernel is kept or looked up. Raises AprgraphError for a value that is not a size.
    """
    text = os.environ.get(SIZE_VARIABLE, "").strip()
    if not text:
        return DEFAULT_SIZE
    found = _SIZE.fullmatch(text)
    if found is None:
        raise AprgraphError(f"{SIZE_VARIABLE}={shown(text)} is no size; expected bytes, such as 500M or 2G, or 0 to keep no kernels")
    return int(found[1]) * _UNITS[found[2].upper()]

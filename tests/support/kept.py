"""What tests keep from one run to the next, for all clones of a user: named by the digest of what it was made from."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _kept() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprgraph-tests"
    except RuntimeError:  # no HOME, and a user that the system does not know
        return _ROOT / "build/tests-cache"


#: The folder. Removing it costs the next run the time of compiling.
KEPT = _kept()

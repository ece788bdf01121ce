"""Temporary files of tests lie in memory where there is room for them, since tests make, sync and remove hundreds of thousands.

What a disk takes for that was a quarter of the processors' time of tests that write traces, and half of the time that they took.
A TMPDIR that is given is taken: ``TMPDIR=/var/tmp make test`` has the files on that disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_PLACE = Path("/dev/shm")
#: Bytes that must be free there. Tests take a tenth of it: what a test left is removed when it has passed (pyproject.toml).
_ROOM = 4 << 30


def has_room(place: Path, room: int = _ROOM) -> bool:
    """Whether this user may write ``room`` bytes there, and load libraries from there."""
    try:
        system = os.statvfs(place)
    except OSError:
        return False
    return os.access(place, os.W_OK | os.X_OK) and not system.f_flag & os.ST_NOEXEC and system.f_bavail * system.f_frsize >= room


# When this is imported, before anything asks for a temporary file. Processes that tests start inherit it.
if "TMPDIR" not in os.environ and has_room(_PLACE):
    os.environ["TMPDIR"] = str(_PLACE)
    tempfile.tempdir = None

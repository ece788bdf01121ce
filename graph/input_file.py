"""Files that somebody else may have put there, read whole: regular ones of a bounded size, and nothing that waits or never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def read_input(path: str | os.PathLike[str], most: int, *, pipes: bool = False) -> bytes:
    """The bytes of a file.

    Raises OSError, whose ``strerror`` is made for a message: for what cannot be read, for what is no regular file, and for more than
    ``most`` bytes. ``pipes``: one that a shell made for this command, as in ``<(command)``, is read as well; a pipe with a name waits
    for whoever may write to it.
    """
    try:
        # Opening a device may do something, and opening a pipe may wait: it is looked at first, and again once it is open.
        _require_regular(Path(path).stat(), path, pipes=pipes)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if pipes else os.O_NONBLOCK))
    except ValueError:
        raise OSError(errno.EINVAL, "embedded null byte", repr(str(path))) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status, path, pipes=pipes)
        if status.st_size > most:
            raise _too_large(path, most, f"has {status.st_size} bytes")
        data = file.read(status.st_size + 1)
        while len(data) <= most and (more := file.read(_CHUNK)):  # it has grown, or is of /proc, where files say that they have none
            data += more
    if len(data) > most:
        raise _too_large(path, most, f"has more than {most} bytes")
    return data


def read_input_text(path: Path, most: int) -> str:
    """The text of a file in UTF-8. Raises OSError as ``read_input`` does, and for bytes that are no UTF-8."""
    try:
        return read_input(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"is not valid UTF-8 at byte {error.start}", str(path)) from None


def special_kind(path: Path) -> str | None:
    """``"is a pipe"`` of what is there and neither file nor folder; None for anything else."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((what for is_kind, what in _KINDS if is_kind is not stat.S_ISDIR and is_kind(mode)), None)


def _require_regular(status: os.stat_result, path: object, *, pipes: bool) -> None:
    if pipes and stat.S_ISFIFO(status.st_mode) and status.st_dev == _device_of_pipes():
        return
    kind = next((what for is_kind, what in _KINDS if is_kind(status.st_mode)), None)
    if kind is not None:
        raise OSError(errno.EINVAL, kind.capitalize(), str(path))


def _device_of_pipes() -> int:
    """Where the system keeps pipes without a name."""
    ends = os.pipe()
    try:
        return os.fstat(ends[0]).st_dev
    finally:
        for end in ends:
            os.close(end)


def _too_large(path: object, most: int, what: str) -> OSError:
    return OSError(errno.EFBIG, f"{what}, expected at most {most}", str(path))

"""What a defect of aprgraph's own leaves: one line that says whose fault it is, where the traceback is, and whom to tell.

The exit code is sysexits.h's EX_SOFTWARE, and never 1, which is `diff`'s "diverged".
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback

from aprgraph.cli.terminal import one_line, say_error

EXIT_INTERNAL = 70
#: Set to anything but nothing or 0: tracebacks come on stderr, and no file is made.
DEBUG = "APRGRAPH_DEBUG"


def report_defect(error: BaseException) -> int:
    """Print the line on stderr, keep the traceback, and return the exit code."""
    where = _place_of(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, RecursionError):
        what = f"something is nested deeper than Python's stack ({what})"
    say_error(
        f"internal error: {one_line(what, 400)}{where}; this is a defect of aprgraph{_version()}, whatever it was given: "
        f"please report it to {_address()}, with the command{_kept(error)}"
    )
    return EXIT_INTERNAL


def _place_of(error: BaseException) -> str:
    """The last place in our own code: ``(at aprgraph/runtime/trace/reader.py:131)``."""
    ours = [
        (str(name), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if (name := frame.f_globals.get("__name__", "")) and str(name).split(".")[0] == "aprgraph"
    ]
    return f" (at {ours[-1][0]}:{ours[-1][1]})" if ours else ""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    with contextlib.suppress(PackageNotFoundError):
        return f" {version('aprgraph')}"
    return ""


def _address() -> str:
    """Where the package says that its issues are kept; else whoever has it."""
    from importlib.metadata import PackageNotFoundError, metadata  # noqa: PLC0415

    with contextlib.suppress(PackageNotFoundError):
        for url in metadata("aprgraph").get_all("Project-URL") or ():
            label, _, address = url.partition(", ")
            if label.lower() in ("issues", "bug tracker"):
                return str(address)
    return "its developers"


def _kept(error: BaseException) -> str:
    """Where the traceback is, in words that end the sentence. It names files and lines, and holds no tensors."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        say_error(text.rstrip("\n"))
        return " and the traceback above"
    try:
        descriptor, path = tempfile.mkstemp(prefix="aprgraph-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\n{text}")
    except OSError:
        return f"; {DEBUG}=1 shows the traceback"
    return f" and the traceback in {path}"

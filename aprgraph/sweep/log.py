"""What is of a run and not of a result, beside the store: when, where, how long, and what was tried again. A line of JSON each."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FILE = "runs.jsonl"


class Log:
    """The log of the store whose log folder is ``folder``, with the number of the run that writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run = uuid.uuid4().hex[:12]

    def write(self, event: str, **facts: Any) -> None:
        """Add a line. What a machine cannot write here is not worth the sweep: then nothing is added."""
        now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "run": self.run, "event": event, **facts}) + "\n"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                os.write(descriptor, line.encode())  # in one call, which other processes' lines do not come between
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def probe(self) -> Iterator[str]:
        """A file that is there for workers that see the same disk, during the block. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder.absolute() / f"probe-{self.run}"
        path.touch()
        try:
            yield str(path)
        finally:
            path.unlink(missing_ok=True)

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Every line, as it was added; what is no line is left out."""
        try:
            text = (self._folder / _FILE).read_text(encoding="utf-8")
        except OSError:
            return
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    yield document

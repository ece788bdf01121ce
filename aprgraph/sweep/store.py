"""The store: a folder of cells, each a folder that is there whole or not at all.

    STORE/store.json                what this folder is
    STORE/cells/<2 digits>/<key>/   a cell (work.py says what is in it)
    STORE-log/                      what is of a run and not of a result: when, where, how long (log.py)

Its bytes follow from the cells alone, not from who computed them when. Several sweeps may write to one store at once: whoever comes
second finds the cell there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.claimed_names import remove_if_abandoned
from aprgraph.graph.errors import TraceError
from aprgraph.graph.whole_file import durable_file
from aprgraph.graph.whole_folder import whole_folder

FORMAT, VERSION = "aprgraph-sweep-store", 1
_MARK = "store.json"
CELL = "cell.json"


class Store:
    """The store at ``path``, which is made where it is not there. Raises TraceError for what is something else's, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mark = path / _MARK
        try:
            if mark.is_file():
                document = json.loads(mark.read_bytes())
                if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (FORMAT, VERSION):
                    raise TraceError(f"{mark}: not the mark of a store of this version; give another place with store")
            elif path.is_dir() and any(path.iterdir()):
                raise TraceError(f"{path}: is there, is not empty, and is no store of a sweep; give another place with store")
            else:
                with durable_file(mark) as temporary:
                    Path(temporary).write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n", encoding="utf-8")
        except ValueError:
            raise TraceError(f"{mark}: not the mark of a store; give another place with store") from None
        except OSError as error:
            raise TraceError.unwritable(error.filename or path, error) from None

    @property
    def log(self) -> Path:
        """The folder of what is known of runs, beside the store."""
        return self.path.with_name(f"{self.path.name}-log")

    def place(self, key: str) -> Path:
        """Where the cell ``key`` is, or will be."""
        return self.path / "cells" / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the cell is there."""
        return (self.place(key) / CELL).is_file()

    def read(self, key: str, name: str = CELL) -> dict[str, Any]:
        """A JSON document of a cell. Raises TraceError."""
        path = self.place(key) / name
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise TraceError(f"{path}: cannot be read ({error}); remove the cell's folder, and sweep again") from None
        if not isinstance(document, dict):
            raise TraceError(f"{path}: not a document of a cell; remove the cell's folder, and sweep again")
        return document

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keep a cell: its ``files`` by their names in it. One that is there stays. Raises OSError."""
        place = self.place(key)
        if self.has(key):
            return
        with whole_folder(place) as folder:
            for name, data in sorted(files.items()):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def keys(self) -> Iterator[str]:
        """Every cell that is there."""
        for place in sorted(self.path.glob("cells/??/*")):
            if not place.name.startswith(".") and (place / CELL).is_file():
                yield place.name

    def remove_leftovers(self) -> None:
        """Remove what workers that were killed left half-written."""
        for place in self.path.glob("cells/??/.*"):
            with contextlib.suppress(OSError):
                remove_if_abandoned(os.fspath(place))

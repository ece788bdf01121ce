"""JSON files that aprgraph wrote, or that claim to be such: the error of each is one line with the file, the key and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import AprgraphError, shown
from aprgraph.graph.input_file import read_input
from aprgraph.graph.json_documents.forms import FormError, Record
from aprgraph.graph.json_documents.parse import parse_strict_json

#: More than any document here has.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Document:
    """A kind of JSON file: ``what`` it is called in messages, its ``form``, the ``error`` that is raised, and the ``advice`` it ends with.

    ``format`` and ``version`` are looked at first, since a file of another version may have another form.
    """

    what: str
    form: Record
    error: type[AprgraphError]
    advice: str
    format: str
    version: int

    def read(self, path: Path) -> dict[str, Any]:
        """What the file holds, of this form. Raises ``error``."""
        found = self.parse(self.read_bytes(path), path)
        self.require_version(found, path)
        self.require_form(found, path)
        return found

    def read_bytes(self, path: Path) -> bytes:
        """The file's bytes. Raises ``error``, for what is no regular file too."""
        try:
            return read_input(path, _MOST_BYTES)
        except OSError as error:
            raise self.error(f"{path}: cannot be read: {error.strerror}; {self.advice}") from None

    def parse(self, data: bytes, path: Path) -> dict[str, Any]:
        """The JSON object in a file's bytes, of whatever form. Raises ``error``."""
        try:
            found = parse_strict_json(data.decode("utf-8"))
        except ValueError as error:
            raise self._broken(path, error) from None
        if not isinstance(found, dict):
            raise self._broken(path, f"it is {'null' if found is None else shown(found)}, expected an object")
        return found

    def require_version(self, document: dict[str, Any], path: Path) -> None:
        """Raise ``error`` for a document of another format or version."""
        for name in ("format", "version"):
            if name not in document:
                raise self._broken(path, f"{name} is missing")
        found, version = document["format"], document["version"]
        if found != self.format or type(version) is not int or version != self.version:
            what = f"format {shown(found)} version {shown(version)}"
            raise self.error(f"{path}: {what}, expected {self.format!r} version {self.version}; {self.advice}")

    def require_form(self, document: dict[str, Any], path: Path) -> None:
        """Raise ``error`` unless the document is of the form."""
        try:
            self.form.check(document)
        except FormError as error:
            raise self._broken(path, error) from None

    def schema(self) -> dict[str, Any]:
        """The form as a JSON Schema of its own."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"{self.format}-{self.version}",
            "title": f"A {self.what}",
            **self.form.schema(),
        }

    def _broken(self, path: Path, why: object) -> AprgraphError:
        return self.error(f"{path}: not a whole {self.what} ({why}); {self.advice}")

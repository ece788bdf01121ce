"""What a JSON document may look like, declared once: `check` holds a value to it, `schema` publishes it as JSON Schema."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aprgraph.graph.errors import shown

_MISSING = object()


class FormError(ValueError):
    """A value that is not of its form: ``tensors[3].layer is 'x', expected null or a whole number from 0 to 4294967294``."""

    def __init__(self, found: object, expected: str) -> None:
        super().__init__()
        self._found, self._expected, self._path = found, expected, ""

    def under(self, part: str) -> FormError:
        """The same error, seen from what holds the value as ``part``: ``.name`` or ``[3]``."""
        self._path = part + self._path
        return self

    def __str__(self) -> str:
        where = self._path.removeprefix(".") or "it"
        if self._found is _MISSING:
            return f"{where} is missing, expected {self._expected}"
        return f"{where} is {_as_json(self._found)}, expected {self._expected}"


def _as_json(value: object) -> str:
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else shown(value)


class Form(ABC):
    """What a value has to be. ``about`` is said to readers of the schema."""

    about: str

    @abstractmethod
    def check(self, value: object) -> None:
        """Raise FormError unless ``value``, as JSON gave it, is of this form."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """The form in words that follow "expected"."""

    @abstractmethod
    def _schema(self) -> dict[str, Any]:
        """The form as JSON Schema, without ``about``."""

    def schema(self) -> dict[str, Any]:
        """The form as JSON Schema (draft 2020-12)."""
        return self._schema() | ({"description": self.about} if self.about else {})


@dataclass(frozen=True)
class Text(Form):
    """A string of at most ``longest`` characters; ``pattern``, a regular expression, matches the whole of it."""

    longest: int = 1 << 20
    pattern: str | None = None
    about: str = ""

    @cached_property
    def _matches(self) -> re.Pattern[str] | None:
        return None if self.pattern is None else re.compile(self.pattern, re.ASCII)

    def check(self, value: object) -> None:
        if not isinstance(value, str) or len(value) > self.longest or (self._matches is not None and not self._matches.fullmatch(value)):
            raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return f"text of at most {self.longest} characters" if self.pattern is None else f"text of the form {self.pattern}"

    def _schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": self.longest} | ({} if self.pattern is None else {"pattern": f"^(?:{self.pattern})$"})


@dataclass(frozen=True)
class Whole(Form):
    """A whole number from ``least`` to ``most``."""

    least: int = 0
    most: int = (1 << 63) - 1
    about: str = ""

    def check(self, value: object) -> None:
        if type(value) is not int or not self.least <= value <= self.most:
            raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def _schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Number(Form):
    """A finite number."""

    about: str = ""

    def check(self, value: object) -> None:
        if type(value) is float and math.isfinite(value):
            return
        if type(value) is not int or abs(value) >> 63:
            raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return "a finite number"

    def _schema(self) -> dict[str, Any]:
        return {"type": "number"}


@dataclass(frozen=True)
class Flag(Form):
    """True or false."""

    about: str = ""

    def check(self, value: object) -> None:
        if not isinstance(value, bool):
            raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return "true or false"

    def _schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Exactly(Form):
    """One of some texts and numbers."""

    values: tuple[str | int, ...]
    about: str = ""

    def check(self, value: object) -> None:
        if not any(type(value) is type(one) and value == one for one in self.values):
            raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return " or ".join(map(repr, self.values))

    def _schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Optional(Form):
    """Null, or of another form."""

    form: Form
    about: str = ""

    def check(self, value: object) -> None:
        if value is None:
            return
        try:
            self.form.check(value)
        except FormError as error:
            if not error._path:  # noqa: SLF001 -- the value itself, and no part of it
                raise FormError(value, self.expected) from None
            raise

    @property
    def expected(self) -> str:
        return f"null or {self.form.expected}"

    def _schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "null"}, self.form.schema()]}


@dataclass(frozen=True)
class OneOf(Form):
    """Of any of some forms."""

    forms: tuple[Form, ...]
    about: str = ""

    def check(self, value: object) -> None:
        for form in self.forms:
            try:
                form.check(value)
            except FormError:
                continue
            return
        raise FormError(value, self.expected)

    @property
    def expected(self) -> str:
        return " or ".join(form.expected for form in self.forms)

    def _schema(self) -> dict[str, Any]:
        return {"anyOf": [form.schema() for form in self.forms]}


@dataclass(frozen=True)
class ListOf(Form):
    """A list of at most ``longest`` values of one form."""

    form: Form
    longest: int = 1 << 24
    about: str = ""

    def check(self, value: object) -> None:
        if not isinstance(value, list) or len(value) > self.longest:
            raise FormError(value, self.expected)
        check = self.form.check
        for index, one in enumerate(value):
            try:
                check(one)
            except FormError as error:  # noqa: PERF203 -- costs nothing where nothing is raised
                raise error.under(f"[{index}]") from None

    @property
    def expected(self) -> str:
        return f"a list of at most {self.longest} values, each {self.form.expected}"

    def _schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.form.schema(), "maxItems": self.longest}


@dataclass(frozen=True)
class MapOf(Form):
    """An object whose names are anybody's, and whose values are of one form."""

    form: Form
    longest: int = 1 << 20
    about: str = ""

    def check(self, value: object) -> None:
        if not isinstance(value, dict) or len(value) > self.longest:
            raise FormError(value, self.expected)
        for name, one in value.items():
            try:
                self.form.check(one)
            except FormError as error:  # noqa: PERF203
                raise error.under(f".{name}" if re.fullmatch(r"\w+", name) else f"[{shown(name)}]") from None

    @property
    def expected(self) -> str:
        return f"an object of at most {self.longest} names, each with {self.form.expected}"

    def _schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.form.schema(), "maxProperties": self.longest}


@dataclass(frozen=True)
class Record(Form):
    """An object with certain names; those in ``fields`` are there, those in ``optional`` may be.

    Any others are not looked at, or, where it is ``closed``, are not allowed.
    """

    fields: Mapping[str, Form]
    optional: Mapping[str, Form] = field(default_factory=dict)
    about: str = ""
    closed: bool = False

    def check(self, value: object) -> None:
        if not isinstance(value, dict):
            raise FormError(value, self.expected)
        name = next((name for name in self.fields if name not in value), None)
        if name is not None:
            raise FormError(_MISSING, self.fields[name].expected).under(f".{name}")
        try:
            for name, form in self.fields.items():
                form.check(value[name])
            for name, form in self.optional.items():
                if name in value:
                    form.check(value[name])
        except FormError as error:
            raise error.under(f".{name}") from None
        if self.closed and (strange := next((name for name in value if name not in self.fields and name not in self.optional), None)):
            raise FormError(value[strange], "no such name").under(f"[{shown(strange)}]")

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self.fields)}" if self.fields else "an object"

    def _schema(self) -> dict[str, Any]:
        properties = {name: form.schema() for name, form in {**self.fields, **self.optional}.items()}
        closed = {"additionalProperties": False} if self.closed else {}
        return {"type": "object", "required": list(self.fields), "properties": properties, **closed}

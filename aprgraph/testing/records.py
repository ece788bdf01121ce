"""What is kept of each assertion, as properties of its test: so it reaches JUnit files, and other processes of the same run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_PREFIX = "aprgraph."
VERDICT, EXIT_CODE, OPEN, PAGE = (f"{_PREFIX}{name}" for name in ("verdict", "exit_code", "left_open", "page"))
MODEL_MISSING = (
    'no model for the fixture aprgraph_model: give --aprgraph-model MODEL, or aprgraph_model = "MODEL" in the pytest section of '
    "pyproject.toml, or a fixture of this name of your own"
)
#: The parts of a verdict that are kept, each line a property of its own: what the notes say stands in what is left open.
PARTS = ("where", "whose", "why")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Record:
    """One assertion of the test ``test``. ``left_open`` keeps its verdict from being a plain one; ``page`` is the file that was kept,
    ``parts`` are (one of PARTS, a line of it).
    """

    test: str
    sentence: str
    exit_code: int
    left_open: tuple[str, ...] = ()
    page: str | None = None
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def properties(self) -> list[tuple[str, object]]:
        """Names and values; ``read`` is the inverse."""
        pages: list[tuple[str, object]] = [] if self.page is None else [(PAGE, self.page)]
        parts: list[tuple[str, object]] = [(f"{_PREFIX}{name}", line) for name, line in self.parts if name in PARTS]
        return [(VERDICT, str(self.sentence)), (EXIT_CODE, self.exit_code), *parts, *((OPEN, str(one)) for one in self.left_open), *pages]

    @property
    def outcome(self) -> str:
        """What the exit code says of an assertion."""
        return {0: "holds", 1: "does not hold"}.get(self.exit_code, "too little was measured to say")


def read(test: str, properties: Sequence[tuple[str, object]]) -> list[Record]:
    """The records among the properties of a test, in the order in which they were made."""
    found: list[list[tuple[str, object]]] = []
    for name, value in properties:
        if name == VERDICT:
            found.append([])
        if found and name in (VERDICT, EXIT_CODE, OPEN, PAGE, *(f"{_PREFIX}{part}" for part in PARTS)):
            found[-1].append((name, value))
    return [_record(test, one) for one in found]


def _record(test: str, properties: Sequence[tuple[str, object]]) -> Record:
    single = dict(properties)
    left_open = tuple(str(value) for name, value in properties if name == OPEN)
    page = single.get(PAGE)
    parts = tuple((name.removeprefix(_PREFIX), str(value)) for name, value in properties if name.removeprefix(_PREFIX) in PARTS)
    return Record(test, str(single[VERDICT]), int(str(single[EXIT_CODE])), left_open, None if page is None else str(page), parts)


def page_name(test: str, number: int) -> str:
    """A file's name for the page of the assertion ``number`` of a test: tests whose names would become one are told apart by a digest."""
    plain = re.sub(r"[^\w.-]+", "-", test, flags=re.ASCII).strip("-.")
    digest = "" if plain == test.replace("::", "-").replace("/", "-") else f"-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return f"{plain[:_LONGEST_NAME]}{digest}{f'-{number + 1}' if number else ''}.html"

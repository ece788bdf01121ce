"""What an assertion found, for whoever keeps record of it: the pytest plugin adds itself to LISTENERS while a test runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aprgraph.runtime.blame import Audit
    from aprgraph.runtime.comparison import Comparison


@dataclass(frozen=True)
class Judgement:
    """``found`` is the audit or the comparison that an assertion made; the words are those of the Python API."""

    found: Audit | Comparison

    @property
    def sentence(self) -> str:
        """The sentence to read first."""
        from aprgraph.runtime.comparison import Comparison  # noqa: PLC0415

        return self.found.headline if isinstance(self.found, Comparison) else self.found.sentence

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """The verdict in parts: ("where", a line of it) and so on, in order."""
        return tuple((name.lower(), str(line)) for name, lines in self.found.summary.parts for line in lines)

    @property
    def exit_code(self) -> int:
        """As of ``aprgraph diff`` and ``aprgraph audit``: 0 holds, 1 does not, 3 too little was measured to say."""
        return self.found.exit_code

    @property
    def reservations(self) -> tuple[str, ...]:
        """What keeps the verdict from being a plain one, and what could not be judged, in sentences."""
        from aprgraph.testing.messages import left_open  # noqa: PLC0415

        return left_open(self.found)

    @property
    def message(self) -> str:
        """The verdict with its explanation, and the tables of what is wrong, as lines of text."""
        from aprgraph.testing.messages import explain  # noqa: PLC0415

        return explain(self.found)

    def write_page(self, path: Path) -> None:
        """Write what was found as one HTML page that opens offline. Raises TraceError where ``path`` cannot be written."""
        from aprgraph.notebook import write_page  # noqa: PLC0415

        write_page(path, self.found)


#: Called with each judgement as it is made, before the assertion fails or returns.
LISTENERS: list[Callable[[Judgement], None]] = []

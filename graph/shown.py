"""What shows itself in a notebook. How it looks is the front's business: nothing below may import that, so it is found by name."""

from __future__ import annotations

import importlib
from typing import Any

#: The module whose ``cell_of`` draws; it is imported when something is shown.
_FRONT = "aprgraph.notebook"


class Shown:
    """A base of what a notebook shows as a cell of HTML, of bounded size."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return front().cell_of(self)  # type: ignore[no-any-return]


def front() -> Any:
    """The module that draws what this and the rooms below it hold."""
    return importlib.import_module(_FRONT)

"""Matches names by a regular expression; as a process of its own, which can be stopped where Python's `re` cannot.

Reads {"expression", "place", "names"} from stdin as JSON, writes the place of each name, or null, to stdout.
"""

from __future__ import annotations

import json
import re
import sys


def place_in(pattern: re.Pattern[str], place: str, name: str) -> str | None:
    """``place`` with the groups of the match, None if there is none: the whole of ``name`` matches, or all behind a dot or slash."""
    starts = (0, *(match.end() for match in re.finditer(r"[./]", name)))
    match = next((found for start in starts if (found := pattern.fullmatch(name, start)) is not None), None)
    return None if match is None else match.expand(place)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    compiled = re.compile(task["expression"])
    json.dump([place_in(compiled, task["place"], name) for name in task["names"]], sys.stdout)

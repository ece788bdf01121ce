"""Matches many names by a regular expression that somebody gave, in bounded time.

Python's `re` tries one way after another, and cannot be stopped: ``(a+)+b`` takes years for forty letters. Expressions
that are plainly quick run here, others in a process that is stopped after a while.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aprgraph.graph.arguments import NAMES
from aprgraph.graph.errors import TraceError, quoted, shown
from aprgraph.runtime.trace.match_worker import place_in

_WORKER = Path(__file__).with_name("match_worker.py")
SECONDS = 10.0
#: What repeats: a group that does, and how many repetitions there may be one after the other, in names of what length.
_REPEATED_GROUP, _REPETITION = re.compile(r"\)[*+{]"), re.compile(r"[*+{]")
_MOST_REPETITIONS, _MOST_CHARACTERS = 3, 256


def match_names(pattern: re.Pattern[str], place: str, names: Sequence[str]) -> dict[str, str | None]:
    """The place of each name, None where the expression does not match.

    Raises TraceError after SECONDS, and RuntimeError with what the other process said where that failed itself.
    """
    if _is_quick(pattern.pattern, names):
        return {name: place_in(pattern, place, name) for name in names}
    task = json.dumps({"expression": pattern.pattern, "place": place, "names": list(names)})
    try:
        done = subprocess.run(
            [sys.executable, "-IS", str(_WORKER)], input=task, capture_output=True, timeout=SECONDS, check=False, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        raise TraceError(
            NAMES,
            f" {quoted(pattern.pattern)}: was stopped after {SECONDS:g} s, as it tries too many ways; let no repetition stand in another, "
            r"such as (\w+)*",
        ) from None
    except OSError as error:
        raise TraceError(NAMES, f" {quoted(pattern.pattern)}: could not be matched ({shown(str(error))})") from None
    if done.returncode < 0:
        raise TraceError(NAMES, f" {quoted(pattern.pattern)}: the process that matched it was ended by signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError(f"the process that matches names failed: {done.stderr}")
    return dict(zip(names, json.loads(done.stdout), strict=True))


def _is_quick(expression: str, names: Sequence[str]) -> bool:
    """Whether no name can take long."""
    repetitions = len(_REPETITION.findall(expression))
    is_short = repetitions == 0 or max(map(len, names), default=0) <= _MOST_CHARACTERS
    return is_short and repetitions <= _MOST_REPETITIONS and _REPEATED_GROUP.search(expression) is None

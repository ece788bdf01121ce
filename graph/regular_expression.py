"""Regular expressions that somebody gave."""

from __future__ import annotations

import re
import warnings

#: Characters of an expression: to compile one takes time for each, seconds for a million.
_LONGEST = 10_000


def compile_expression(text: str) -> re.Pattern[str]:
    """The expression ``text``. Raises ValueError for what is none, or is nested too deep; what Python warns of is kept quiet."""
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text):,} characters, expected at most {_LONGEST:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None

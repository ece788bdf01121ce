"""Regular expressions that somebody gave."""

from __future__ import annotations

import re
import warnings


def compile_expression(text: str) -> re.Pattern[str]:
    """The expression ``text``. Raises ValueError for what is none, or is nested too deep; what Python warns of is kept quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None

r"""Rules of names as they were written: one by one, or in a file, a rule a line.

# what the engine calls the outputs of its blocks
layers\.(\d+)\.mlp=layer\1.ffn_out
.*\.debug=ignore
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aprgraph.graph.arguments import NAMES
from aprgraph.graph.errors import TraceError, quoted, shown
from aprgraph.graph.near_names import did_you_mean_path
from aprgraph.runtime.trace.names import NameRules

#: What stands before the name of a file in place of a rule.
FILE_MARK: Final = "@"
_COMMENT = "#"
#: A larger file is something else.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class WrittenRule:
    """One rule, not read yet; ``file`` and ``line``, from 1, where it stands in a file."""

    text: str
    file: Path | None = None
    line: int = 0

    @property
    def label(self) -> str:
        """What messages call it: ``'x=lm_head'``, or ``'x=lm_head' in rules.txt, line 3``."""
        return quoted(self.text) if self.file is None else f"{quoted(self.text)} in {self.file}, line {self.line}"


def written_rules(rules: NameRules) -> tuple[WrittenRule, ...]:
    """All rules, those of files in the order of their lines. Raises TraceError for a file that cannot be read."""
    if isinstance(rules, Mapping):
        return tuple(WrittenRule(f"{expression}={place}") for expression, place in rules.items())
    if isinstance(rules, str | Path):
        return tuple(_read_file(str(rules).removeprefix(FILE_MARK), "a rule goes into a list"))
    found: list[WrittenRule] = []
    for rule in rules:
        found += _read_file(rule[1:], "behind @ goes the name of a file of rules") if rule.startswith(FILE_MARK) else [WrittenRule(rule)]
    return tuple(found)


def is_rule_file(text: str) -> bool:
    """Whether a file is there that was meant, where ``text`` is no rule."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _read_file(name: str, otherwise: str) -> Iterator[WrittenRule]:
    """The rules of a file. ``otherwise`` is what to do where no file was meant."""
    file = Path(os.path.expanduser(name))  # noqa: PTH111 -- Path's own raises where there is no home
    argument = NAMES.given(f"{FILE_MARK}{name}", repr(name))
    try:
        if not file.is_file():
            what = "is no file" if file.exists() else f"is not there{did_you_mean_path(file)}"
            raise TraceError("", argument, f": {shown(str(file))} {what}; expected a file of rules REGEX=PLACE, one a line; {otherwise}")
        if file.stat().st_size > _MOST_BYTES:
            raise TraceError(
                "", argument, f": {file} has more than {_MOST_BYTES:,} bytes; expected a file of rules REGEX=PLACE, one a line"
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TraceError("", argument, f": {file} is no text in UTF-8; expected a file of rules REGEX=PLACE, one a line") from None
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise TraceError("", argument, f": {shown(str(file))} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    count = 0
    for number, line in enumerate(text.splitlines(), 1):
        if (rule := line.strip()) and not rule.startswith(_COMMENT):
            count += 1
            yield WrittenRule(rule, file, number)
    if not count:
        raise TraceError("", argument, f": {file} holds no rule; expected REGEX=PLACE, one a line, {_COMMENT} before comments")

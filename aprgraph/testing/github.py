"""What GitHub shows of a run: annotations at the tests that failed, and a summary of the job in Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from aprgraph.graph.words import counted, shortened
from aprgraph.testing.records import Record

#: Characters of an annotation, and of a verdict in a table; GitHub takes 64 KB and 1 MB of all.
_LONGEST, _ROWS = 2000, 200
#: What Markdown and HTML would take for their own.
_ESCAPES = {character: f"\\{character}" for character in "\\`*_{}[]#|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"}


def annotation(record: Record, path: Path, line: int, environment: Mapping[str, str] = os.environ) -> str:
    """A workflow command that marks the test, in ``line`` (from 1) of the file ``path``, with the verdict.

    The form is https://docs.github.com/actions/reference/workflow-commands-for-github-actions; paths are those of the repository.
    """
    workspace = environment.get("GITHUB_WORKSPACE", "")
    place = os.path.relpath(path, workspace) if workspace and path.is_relative_to(workspace) else str(path)
    title = f"aprgraph: {record.test.rpartition('::')[2]} {record.outcome}"
    parameters = ",".join(f"{name}={_parameter(str(value))}" for name, value in (("file", place), ("line", line), ("title", title)))
    lines = [f"{name.upper()} {shortened(line, _LONGEST)}" for name, line in record.parts] or [shortened(record.sentence, _LONGEST)]
    return f"::error {parameters}::{_data(chr(10).join(lines)[:_LONGEST])}"


def _data(text: str) -> str:
    """``text`` as a workflow command takes it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _parameter(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(records: Sequence[Record]) -> str:
    """A section of Markdown with a row for each assertion, those that do not hold first."""
    failed = [one for one in records if one.exit_code]
    rows = [*failed, *(one for one in records if not one.exit_code)]
    held = f"{counted(len(records) - len(failed), 'assertion')} of {len(records)} hold{'s' if len(records) - len(failed) == 1 else ''}"
    lines = [f"### aprgraph: {held}", "", "| | test | verdict |", "|---|---|---|"]
    for one in rows[:_ROWS]:
        aside = "".join(f"<br>{_markdown(text)}" for text in one.left_open)
        page = f"<br>page: {_markdown(one.page)}" if one.page is not None else ""
        parts = "<br>".join(f"**{name}** {_markdown(line)}" for name, line in one.parts) if one.exit_code else ""
        lines.append(f"| {one.outcome} | {_markdown(one.test)} | {parts or _markdown(one.sentence)}{aside}{page} |")
    left = len(rows) - _ROWS
    return "\n".join([*lines, *(["", f"{left} more that hold" if not failed[_ROWS:] else f"{left} more"] if left > 0 else []), "", ""])


def _markdown(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in shortened(text, _LONGEST))

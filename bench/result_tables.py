"""What `make bench` keeps: rows as JSON, each with when and at which commit it was measured, a table made from it, and what has moved."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.measuring import Failure, Row, duration

#: Beyond the committed spread by more than this share of it, a ratio has moved.
TENTH = 0.1
Document = dict[str, Any]

#: How the rows of a group are to be read.
NOTES = {
    "tokens": "One decoded token, after ten, by the clock with all threads. The models of 8B have two layers of random blocks.",
    "prefill": "The logits of the last position of a prompt; with every tensor written, both sides write to the same file system.",
    "kernels": "One position, a GB of blocks, by the clock with all threads. The C loop is for AVX2 everywhere, with bits of x86-64-v3.",
    "commands": "Whole processes, a prompt of 7 tokens, every tensor of every layer. Bare Python imports what a run needs and ends.",
    "diff": "Whole processes, files in the system's cache.",
    "moe": "A whole process on a compiled artifact, all stages of one layer.",
}


@dataclass(frozen=True)
class Stamp:
    """When, and at which commit."""

    date: str
    commit: str


def merged(old: Document | None, about: Mapping[str, Any], stamp: Stamp, found: Iterable[Row], whole: Collection[str]) -> Document:
    """A document with the rows that were found now, and of the old one those that were not measured again.

    ``about`` says what this run ran on. Of the groups in ``whole`` everything was measured, so that no old row stays.
    """
    fresh = {row.key: {**asdict(row), **asdict(stamp)} for row in found}
    kept = {_key(row): row for row in (old["rows"] if old is not None else ()) if row["group"] not in whole}
    rows = [*(kept | fresh).values()]
    order = {group: index for index, group in enumerate(NOTES)}
    return {**about, **asdict(stamp), "rows": sorted(rows, key=lambda row: order.get(row["group"], len(order)))}


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["group"], row["what"], row["peer"]


def _row(row: Mapping[str, Any]) -> Row:
    return Row(**{field.name: row[field.name] for field in fields(Row)})


def moved(committed: Document | None, processor: str, found: Sequence[Row], failed: Sequence[Failure] = ()) -> list[str]:
    """Lines for people: the rows whose ratio left the committed spread by more than a tenth, then how many of how many.

    ``processor`` is what they were found on; where the committed ones were measured on another, a line says so.
    """
    tail = f"; {len(failed)} could not be measured" if failed else ""
    if committed is None:
        return [f"{len(found)} rows; none are committed for this machine, so there is nothing to compare with{tail}"]
    before = {_key(row): row for row in committed["rows"]}
    known = [row for row in found if row.key in before]
    lines, counts = [], {"slower": 0, "faster": 0}
    if committed["processor"] != processor:
        lines.append(f"the committed rows are those of another processor, {committed['processor']}")
    for row in known:
        was = before[row.key]
        if row.ratio < was["low"] * (1 - TENTH):
            how = "slower"
        elif row.ratio > was["high"] * (1 + TENTH):
            how = "faster"
        else:
            continue
        counts[how] += 1
        spread = f"{was['ratio']:.3g} ({was['low']:.3g} to {was['high']:.3g})"
        lines.append(f"{how}: {row.group}: {row.what}: {row.ratio:.3g} times as fast as {row.peer}; {was['commit']} had {spread}")
    new = f", {len(found) - len(known)} are new" if len(found) > len(known) else ""
    left = f"{counts['slower'] + counts['faster']} of {len(known)} rows left the committed spread by more than a tenth"
    return [*lines, f"{left}: {counts['slower']} slower, {counts['faster']} faster{new}{tail}"]


def committed_text(root: Path, path: Path) -> str | None:
    """A file below ``root`` as HEAD has it; None where HEAD or git has none."""
    try:
        done = subprocess.run(["git", "-C", root, "show", f"HEAD:./{path.relative_to(root)}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode()


def commit(root: Path) -> str:
    """The commit of the tree at ``root``, with "+changes" where tracked files but for results differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def markdown(document: Document) -> str:
    """The table for people."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    load = " and ".join(f"{document['load'][when]:.1f} {when}" for when in ("before", "after"))
    lines = [
        f"# Measured on {document['level']}, {document['processors']} processors",
        "",
        "Written by `make bench`. Times are medians. Ratios are what is to be read: how many times as fast as the peer, in turns with it.",
        "",
        f"- last run: {document['date']}, commit {document['commit']}, load {load}",
        f"- {document['processor']}",
        f"- {versions}",
        f"- llama.cpp: {document['llama.cpp']}",
    ]
    for group in dict.fromkeys(row["group"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["group"] == group]
        elsewhere = any((row["date"], row["commit"]) != (document["date"], document["commit"]) for row in rows)
        heads = ["what", "time", "peer", "its time", "times as fast", "least to most, of rounds", "MB", "threads", ""]
        if elsewhere:
            heads.append("measured")
        lines += ["", f"## {group}", "", *([NOTES[group], ""] if group in NOTES else ()), f"| {' | '.join(heads)} |"]
        lines.append("|---|---:|---|---:|---:|---|---:|---:|" + "---|" * (len(heads) - 8))
        lines += [f"| {' | '.join(_cells(row, elsewhere=elsewhere))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(stored: Mapping[str, Any], *, elsewhere: bool) -> list[str]:
    row = _row(stored)
    memory = f"{row.memory / 1e6:.0f}" if row.memory is not None else ""
    ratio = [f"{row.ratio:.3g}", f"{row.low:.3g} to {row.high:.3g}, {row.rounds}"]
    cells = [row.what, duration(row.seconds), row.peer, duration(row.peer_seconds), *ratio, memory, str(row.threads), row.note]
    return [*cells, f"{stored['date']}, {stored['commit']}"] if elsewhere else cells

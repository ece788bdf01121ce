"""What `aprgraph check` reports: the findings, what was read, what was not looked at, and the sentence to read first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.shown import Shown
from aprgraph.graph.words import counted, listed, shortened
from aprgraph.runtime.check.finding import Finding, Level

FORMAT = "aprgraph-check"
VERSION = 1

#: What a line names of many findings of one kind.
NAMED = 3
_KINDS_NAMED = 3


@dataclass(frozen=True)
class CheckReport(Shown):
    """``kind`` is what the file is; ``read`` counts tensors and bytes whose values were looked at."""

    path: Path
    kind: str
    findings: tuple[Finding, ...]
    tensors: int
    tensors_read: int
    bytes_read: int
    not_looked_at: tuple[str, ...]

    def count(self, level: Level) -> int:
        """How many kinds of findings there are of a level."""
        return len({finding.rule.code for finding in self.findings if finding.rule.level is level})

    @property
    def exit_code(self) -> int:
        """0 nothing wrong, 1 errors or warnings. (2, could not be checked, is an AprgraphError instead.)"""
        return int(any(finding.rule.level is not Level.NOTE for finding in self.findings))

    @property
    def by_rule(self) -> Mapping[str, Sequence[Finding]]:
        """The findings by code, errors first, then warnings, then notes, each in the order in which they were found."""
        groups: dict[str, list[Finding]] = {}
        for level in Level:
            for finding in self.findings:
                if finding.rule.level is level:
                    groups.setdefault(finding.rule.code, []).append(finding)
        return groups

    @property
    def extent(self) -> str:
        """How much was read."""
        if not self.tensors_read:
            return f"{counted(self.tensors, 'tensor')}, whose values were not read"
        of_all = f" of {self.tensors}" if self.tensors_read < self.tensors else ""
        return f"{self.tensors_read}{of_all} {'tensor' if self.tensors == 1 else 'tensors'}, {_megabytes(self.bytes_read)} read"

    @property
    def _called(self) -> str:
        return self.path.name or str(self.path)  # "." has no name

    @property
    def sentence(self) -> str:
        """The sentence to read first."""
        if not self.exit_code:
            notes = self.count(Level.NOTE)
            aside = f"; {counted(notes, 'note')}" if notes else ""
            return f"{self._called}: nothing wrong found: {self.extent}{aside}."
        counts = [counted(self.count(level), level.value) for level in (Level.ERROR, Level.WARNING) if self.count(level)]
        serious = [group for group in self.by_rule.values() if group[0].rule.level is not Level.NOTE]
        kinds = [_brief(group) for group in serious[:_KINDS_NAMED]]
        more = f"; and {len(serious) - _KINDS_NAMED} more" if len(serious) > _KINDS_NAMED else ""
        return f"{self._called}: {' and '.join(counts)}: {'; '.join(kinds)}{more}."

    def __repr__(self) -> str:
        return f"<CheckReport: {shortened(self.sentence)}>"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        levels = Counter(finding.rule.level for finding in self.findings)
        return {
            "format": FORMAT,
            "version": VERSION,
            "path": str(self.path),
            "kind": self.kind,
            "sentence": self.sentence,
            "exit_code": self.exit_code,
            "counts": {level.value: levels[level] for level in Level},
            "tensors": self.tensors,
            "read": {"tensors": self.tensors_read, "bytes": self.bytes_read},
            "not_looked_at": list(self.not_looked_at),
            "findings": [finding.to_json() for group in self.by_rule.values() for finding in group],
        }


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _brief(group: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(finding.name for finding in group if finding.name))
    if not names:
        return group[0].text if group[0].rule.code == "file-kind" else group[0].rule.title
    return f"{group[0].rule.title} ({listed(names, 1)})"

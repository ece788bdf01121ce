"""docs/bug-zoo.md: what was planted where, and what was found. The same results give the same text.

A section a family, which that family's tests compare with their own results; the table at the head is the sum of the sections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.zoo.check import Result
from tests.zoo.faults import FAULTS
from tests.zoo.results import faults_of, noise_results_of, results_of, sparse_fault_of, sparse_results_of, sparse_taps_of
from tests.zoo.subjects import FAMILIES, subject

_ROW = re.compile(
    r"\| (?P<fault>[^|]+) \| (?P<places>[^|]+) \| (?P<values>\d+)/(?P<cases>\d+) \| (?P<blame>\d+)/\d+ \| (?P<named>[^|]*) \|"
)

_HEAD = """# The bug zoo

Generated: `make zoo` runs every case and writes this page. `make test` and `make sweep` together run each fault of each family at one of
its places, another one in the next family, and at all of them in families that have every op between them, and compare with this page;
`make test` alone each fault in a few families.

Faults put in on purpose, into tiny random models of every family that can have them: at the first, the middle and the last layer, or
once where they are of the whole model. Each faulty run is compared with a right one, whose float32 rounding is other than its own. The
manifest of a faulty run names the right graph: a bug does not stand in it. Recorded are all stages of the fault's layer and of the one
before it, and of the whole model; of every layer, where the fault is in no one layer.

*Values* (`diff`) has found a fault if its first divergences are exactly the first tensors that the fault makes wrong, and the region of
each holds the guilty node. *Blame* has found it if the tensors that it calls wrong are exactly those that the fault makes wrong, all on the
faulty side, and none on the other. Both in both orders of the arguments. For a run of other tokens, found means refused, with the
position. *Seen in* is a report of such a fault in an engine.
"""


@dataclass(frozen=True)
class Row:
    """One fault in one family: its places, how many of them each level found, and what was named first."""

    fault: str
    places: str
    cases: int
    values: int
    blame: int
    named: str

    def __str__(self) -> str:
        return f"| {self.fault} | {self.places} | {self.values}/{self.cases} | {self.blame}/{self.cases} | {self.named} |"


def row_of(results: Sequence[Result]) -> Row:
    """The row of the results of one fault in one family."""
    places = [result.place for result in results]
    layers = [place.removeprefix("layer ") for place in places if place.startswith("layer ")]
    named = dict.fromkeys(name for result in results for name in result.values.named)
    return Row(
        fault=results[0].fault,
        places="layers " + ", ".join(layers) if len(layers) > 1 else ", ".join(places),
        cases=len(results),
        values=sum(result.values.missed is None for result in results),
        blame=sum(result.blame.missed is None for result in results),
        named=", ".join(named) or "nothing",
    )


def about(family: str) -> str:
    """What a section says of runs without a fault, and of few taps."""
    noise, sparse = noise_results_of(family), sparse_results_of(family)
    quiet = sum(result.passed for result in noise)
    few = row_of(sparse)
    return (
        f"Without a fault: {quiet} of {len(noise)} comparisons of right runs flag nothing. With `--taps {sparse_taps_of(subject(family))}` alone, "
        f"{sparse_fault_of(family)} ({few.places}): values {few.values}/{few.cases}, blame {few.blame}/{few.cases}, first {few.named}."
    )


def section_of(family: str) -> str:
    """The section of one family. Runs all of its cases."""
    rows = [str(row_of(results_of(family, fault.name))) for fault in faults_of(family)]
    header = ["| fault | places | values | blame | named first |", "|---|---|---|---|---|"]
    return "\n".join([f"## {family}", "", about(family), "", *header, *rows, ""])


def summary_of(sections: Iterable[str]) -> str:
    """The head of the page: every fault over all families, from the rows of their sections."""
    rows = [row for section in sections for row in parse_rows(section)]
    lines = []
    for fault in FAULTS:
        mine = [row for row in rows if row.fault == fault.name]
        lines.append(f"| {fault.name} | {fault.kind} | {fault.summary} | {_link(fault.seen)} | {len(mine)} | {_found_of(mine)} |")
    cases, values, blame = (sum(getattr(row, name) for row in rows) for name in ("cases", "values", "blame"))
    total = f"{len(FAULTS)} faults in {len(FAMILIES)} families, {cases} cases: values found {values}, blame {blame}."
    header = ["| fault | kind | what is wrong | seen in | families | values | blame |", "|---|---|---|---|---|---|---|"]
    return "\n".join([_HEAD, total, "", *header, *lines, ""])


def _found_of(rows: Sequence[Row]) -> str:
    cases, values, blame = (sum(getattr(row, name) for row in rows) for name in ("cases", "values", "blame"))
    return f"{values}/{cases} | {blame}/{cases}"


def _link(seen: str) -> str:
    repository, _, number = seen.partition("#")
    return f"[{seen}](https://github.com/{repository}/issues/{number})" if seen else ""


def page() -> str:
    """The whole page. Runs the whole zoo."""
    sections = [section_of(family) for family in FAMILIES]
    return "\n".join([summary_of(sections), *sections])


def parse_sections(text: str) -> dict[str, str]:
    """The sections of a page by family."""
    return {part.partition("\n")[0]: f"## {part}".rstrip("\n") + "\n" for part in text.split("\n## ")[1:]}


def parse_rows(section: str) -> list[Row]:
    """The rows of a family's section."""
    return [
        Row(m["fault"], m["places"], int(m["cases"]), int(m["values"]), int(m["blame"]), m["named"])
        for m in map(_ROW.fullmatch, section.splitlines())
        if m is not None
    ]

"""Which tensors a report points at: by blame those that a side is wrong at, else the first divergences, and what lies around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.classify import FirstDivergence
from aprgraph.runtime.diff.report import DiffRow

if TYPE_CHECKING:
    from aprgraph.runtime.blame.wrong_rows import Group


def suspects(report: Comparison) -> list[FirstDivergence]:
    """Where the cause can lie: by blame, what the replay of a wrong tensor computed; without, the first divergences."""
    blame = report.blame
    if blame is None or not blame.wrong:
        return list(report.first)
    from aprgraph.runtime.blame.local_errors import Verdict  # noqa: PLC0415 -- two traces are compared without what replays a model

    firsts = {first.key: first for first in report.first}
    found = []
    for key in blame.wrong:
        local = (blame.a if blame.verdicts[key] is Verdict.A_WRONG else blame.b).by_key[key]
        following = firsts[key].following if key in firsts else ()
        if local.region:
            found.append(FirstDivergence(key, local.region, local.weights, local.sources, following, local.inside))
        elif key in firsts:  # blamed because the other side is right: it could not be replayed itself
            found.append(firsts[key])
    return found


def one_a_stage(suspects: list[FirstDivergence]) -> list[tuple[Group, FirstDivergence]]:
    """The first of each stage, with all tensors that it stands for."""
    from aprgraph.runtime.blame.wrong_rows import group_keys  # noqa: PLC0415

    by_key = {one.key: one for one in suspects}
    return [(group, by_key[group.keys[0]]) for group in group_keys(by_key, lambda key: len(by_key[key].region))]


def matter(report: Comparison) -> list[DiffRow]:
    """The rows to read first: by blame, the first tensor of each stage that is wrong, with those nearest before and after it."""
    pointed = suspects(report)
    if report.blame is None or not report.blame.wrong:
        return report.rows_that_matter()
    return report.rows_around([one for _, one in one_a_stage(pointed)])

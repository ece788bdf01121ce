"""What a trace recorded otherwise than the stage table says, as explanations: under it a tensor is right, and held to the same limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aprgraph.graph.words import listed
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState, named
from aprgraph.runtime.explain.explanation import Candidate, Explanation
from aprgraph.runtime.place import Place
from aprgraph.runtime.place_names import NAMED


def recorded(local: LocalError, name: str, words: str, borne_out: str) -> LocalError:
    """``local``, which is right, as what was recorded by the convention ``name``, beside those that it has already."""
    own = local.explanation
    error = local.error or 0.0
    if own is None or not own.is_convention:
        return replace(local, explanation=Explanation(Candidate(name, words, error), borne_out=borne_out))
    both = Candidate(f"{own.first.name} + {name}", f"{own.first.words}, and {words}", error)
    return replace(local, explanation=Explanation(both, borne_out=borne_out))


def with_convention(found: Audit, keys: Iterable[Place], name: str, words: str, borne_out: str) -> Audit:
    """``found`` with the right tensors of ``keys`` as recorded by a convention."""
    of = frozenset(keys)
    locals_ = [recorded(one, name, words, borne_out) if one.key in of and one.state is LocalState.RIGHT else one for one in found.locals]
    return replace(found, locals=tuple(locals_), moved=True)


def convention_clauses(audit: Audit) -> list[str]:
    """For each convention of what is right: at which tensors, how recorded, what bears it out; then of what is wrong beside it."""
    groups: dict[tuple[str, str], list[LocalError]] = {}
    for local in audit.locals:
        if local.state is LocalState.RIGHT and local.explanation is not None and local.explanation.is_convention:
            groups.setdefault((local.explanation.first.words, local.explanation.borne_out), []).append(local)
    wrong: dict[str, list[LocalError]] = {}
    for local in audit.locals:
        if local.state is LocalState.WRONG and local.reading is not None:
            wrong.setdefault(local.reading, []).append(local)
    beside = [f"{_stages(group)} {_was(group)} recorded {words}; what is wrong there is so beside that" for words, group in wrong.items()]
    return [*map(_clause, groups.values()), *beside]


def _was(group: Sequence[LocalError]) -> str:
    return "was" if len(group) == 1 else "were"


def _clause(group: Sequence[LocalError]) -> str:
    worst = max((local.explanation for local in group if local.explanation is not None), key=lambda one: one.first.error)
    return f"at {_stages(group)} {worst.sentence}: this looks like the recording, not the computation; {worst.borne_out}"


def _stages(group: Sequence[LocalError]) -> str:
    by_stage: dict[tuple[int, str], list[LocalError]] = {}
    for local in group:
        by_stage.setdefault((local.key.step, local.key.stage), []).append(local)
    return listed((named(one) for one in by_stage.values()), NAMED)

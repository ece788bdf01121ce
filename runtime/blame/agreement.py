"""What wrong tensors of one trace say of each other's explanations: a mistake that several show is one mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from aprgraph.graph.ir import Graph
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.explain import Candidate, Explanation
from aprgraph.runtime.place import Place

#: A step and a layer.
_At = tuple[int, int | None]


def agreed(locals_: Sequence[LocalError], graph: Graph) -> list[LocalError]:
    """``locals_`` with explanations that do not contradict each other.

    A mistake that would show in what reads the tensor is none where that is right. Of mistakes that fit one tensor as well, that one
    counts which is the only one at others.
    """
    nodes = {(node.layer, node.stage): node.name for node in graph.staged()}
    right = {local.key for local in locals_ if local.state is LocalState.RIGHT}

    def is_borne_out(local: LocalError, candidate: Candidate) -> bool:
        readers = [node for node in graph.users(nodes[local.key.layer, local.key.stage]) if node.op in candidate.shows_in]
        return not any(Place(local.key.step, node.layer, node.stage or "") in right for node in readers)

    kept = []
    for local in locals_:
        if local.explanation is not None and not local.explanation.is_convention:
            candidates = [one for one in local.explanation.candidates if is_borne_out(local, one)]
            local = replace(local, explanation=Explanation(candidates[0], tuple(candidates[1:])) if candidates else None)
        kept.append(local)
    kept = _of_one_mistake(kept)
    mistakes = [local.explanation for local in kept if local.explanation is not None and not local.explanation.is_convention]
    alone = Counter(one.first.name for one in mistakes if not one.others)
    return [_narrowed(local, alone) for local in kept]


def _of_one_mistake(locals_: Sequence[LocalError]) -> list[LocalError]:
    """Of a mistake that fits as a whole and in part, at one node that several tensors are computed through: the whole, where it explains
    all of them, and the least part, where one of them is right.
    """
    right: set[tuple[int, str]] = set()
    said: Counter[tuple[_At, str]] = Counter()
    for local in locals_:
        if local.state is LocalState.RIGHT:
            right.update((local.key.step, node) for node in local.region)
        elif local.explanation is not None:
            said.update((_at(local), one.words) for one in local.explanation.candidates)
    return [_one_mistake(local, right, said) for local in locals_]


def _one_mistake(local: LocalError, right: Collection[tuple[int, str]], said: Mapping[tuple[_At, str], int]) -> LocalError:
    explanation = local.explanation
    if explanation is None or not explanation.others:
        return local
    first, *others = explanation.candidates
    if not first.nodes or any((one.name, one.nodes) != (first.name, first.nodes) for one in others):
        return local
    if any((local.key.step, node) in right for node in first.nodes):
        least = min(one.changes for one in explanation.candidates)
        left = [one for one in explanation.candidates if one.changes == least]
    else:
        most = max(said[_at(local), one.words] for one in explanation.candidates)
        left = [one for one in explanation.candidates if said[_at(local), one.words] == most]
    return replace(local, explanation=Explanation(left[0], tuple(left[1:])))


def _at(local: LocalError) -> _At:
    return local.key.step, local.key.layer


def _narrowed(local: LocalError, alone: Counter[str]) -> LocalError:
    explanation = local.explanation
    if explanation is None or not explanation.others:
        return local
    known = [one for one in explanation.candidates if alone[one.name]]
    if not known:
        return local
    best = max(known, key=lambda one: alone[one.name])
    same = [one for one in explanation.candidates if one.name == best.name]
    return replace(local, explanation=Explanation(same[0], tuple(same[1:])))

"""What wrong tensors of one trace say of each other's explanations: a mistake that several show is one mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from aprgraph.graph.ir import Graph
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.explain import Candidate, Explanation
from aprgraph.runtime.place import Place


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
    mistakes = [local.explanation for local in kept if local.explanation is not None and not local.explanation.is_convention]
    alone = Counter(one.first.name for one in mistakes if not one.others)
    return [_narrowed(local, alone) for local in kept]


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

"""Which class of transformers that is there the class of a checkpoint is nearest to, and what of its tensors that one has no place for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from aprgraph.graph.families import FAMILIES
from aprgraph.graph.sources.checkpoint.names import Names, without_wrappers
from aprgraph.graph.words import listed

#: Names less alike than that are of no relative.
_ALIKE = 0.7
_TASK = re.compile(r"(?:For\w+|LMHeadModel|TextModel|Model)$")
_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")
#: So many tensors are named.
_NAMED = 3


def nearest_class(name: str, tensors: Collection[str]) -> str:
    """``by its name nearest is Qwen3MoeForCausalLM, which has no place for model.layers.*.mlp.gate.bias``; empty where none is near.

    ``tensors`` are the names in the files. Where all have a place, the two may still compute otherwise.
    """
    classes = {own: family for family in FAMILIES.values() for own in family.own_hf_classes()}
    best = max(classes, key=lambda own: _likeness(name, own))
    begun, alike, _ = _likeness(name, best)
    if not begun and alike < _ALIKE:
        return ""
    whole = {without_wrappers(tensor) for tensor in tensors}
    kinds = {_NUMBERS.sub("*", tensor): tensor for tensor in sorted(whole)}
    names = Names(classes[best], whole)
    odd = [kind for kind, tensor in kinds.items() if names.place(tensor) is None]
    if 2 * len(odd) > len(kinds):
        return ""
    return f"by its name nearest is {best}" + (f", which has no place for {listed(odd, _NAMED)}" if odd else "")


def _likeness(name: str, own: str) -> tuple[int, float, float]:
    """How alike two classes are called: by what both begin with where one is named after the other, by letters, and for the same task."""
    theirs, ours = _stem(name), _stem(own)
    begun = len(ours) if theirs.startswith(ours) else 0
    return begun, difflib.SequenceMatcher(None, theirs, ours).ratio(), difflib.SequenceMatcher(None, name, own).ratio()


def _stem(name: str) -> str:
    """The name of a class without what it is for, in small letters."""
    return _TASK.sub("", name).lower()

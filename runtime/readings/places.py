"""Other programs' names for the places of tensors: layers counted from 1, hidden states counted from the embedding, the last one normed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aprgraph.graph.stages import EMBEDDING, FINAL_NORM, end_of_layer
from aprgraph.graph.words import counted
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.convention import convention
from aprgraph.runtime.trace.reader import Trace

#: A product, and the stage behind it, which other programs compute at once.
_PRODUCT, _BIASED = "qkv_matmul", "qkv_bias"


@dataclass(frozen=True)
class Places:
    """``moved`` maps keys of a trace to those that they may stand for, None where a tensor is there twice; ``words`` say how so, and
    ``name`` is the convention's.

    ``around`` are the keys that decide, None for all of the trace. ``doubles`` are the places whose tensors those are that are there twice.
    ``witnessed``: what reads a tensor tells where it belongs, whether it is right there or not.
    """

    name: str
    words: str
    moved: Mapping[Place, Place | None]
    around: frozenset[Place] | None = None
    doubles: Mapping[Place, Place] = field(default_factory=dict)
    far_reaching: bool = True
    witnessed: bool = False


@convention("any, of several layers")
def places_of_twins(trace: Trace, twins: Mapping[Place, Place]) -> Places:
    """A tensor holds what another stage holds, of the same layer or of another: it is in that one's place."""
    keys = {entry.key for entry in trace.entries}
    words = sorted({f"{key.stage} is {twin.stage}{_apart(key, twin)}" for key, twin in twins.items()})
    doubles = {key: twin for key, twin in twins.items() if twin in keys}
    return Places("other-stage", f"its {', '.join(words)}", _without_doubles(twins, keys), doubles=doubles, far_reaching=False)


def _apart(key: Place, twin: Place) -> str:
    """How many layers before or behind its own a tensor's place is, where that is not the same one."""
    if key.layer is None or twin.layer is None or key.layer == twin.layer:
        return ""
    count = abs(key.layer - twin.layer)
    return f" of {counted(count, 'layer')} {'before' if key.layer > twin.layer else 'behind'}"


def other_places(trace: Trace, layers: int) -> Iterator[Places]:
    """What the places of a trace of a model of ``layers`` layers may mean instead, the most far-reaching first."""
    keys = {entry.key for entry in trace.entries}
    yield from layers_from_one(keys, layers)
    yield from hidden_states(keys, layers)
    yield from normed_last(keys, layers)
    yield from with_biases(keys)


@convention("all tensors of layers")
def layers_from_one(keys: set[Place], layers: int) -> Iterator[Places]:
    """Layers are counted from 1."""
    in_layers = {key for key in keys if key.layer is not None and key.stage != EMBEDDING}
    numbers = {key.layer for key in in_layers if key.layer is not None}
    if numbers and min(numbers) >= 1 and max(numbers) <= layers:
        lower: dict[Place, Place | None] = {key: key._replace(layer=(key.layer or 0) - 1) for key in in_layers}
        yield Places("layers-from-1", "its layers are counted from 1", lower)


@convention("the last stage of each layer")
def hidden_states(keys: set[Place], layers: int) -> Iterator[Places]:
    """Hidden states are counted from the embedding, as transformers' hidden_states are; the last one comes behind or before the norm."""
    end_stage = end_of_layer({key.stage for key in keys})
    hidden = sorted(key for key in keys if key.stage == end_stage)
    counted = {key.layer for key in hidden}
    for normed in (True, False) if layers in counted else (True,) if 0 in counted else ():
        end = "after the final norm" if normed else "before the final norm"
        words = (
            f"its {end_stage} are hidden states counted from the embedding, as transformers' hidden_states are: number i is the output "
            f"of layer i - 1, number 0 the embedding, and the last one comes {end}"
        )
        moved = {key: _hidden_state(key, layers, normed=normed) for key in hidden}
        yield Places("hidden-states", words, _without_doubles(moved, keys))


@convention("the last stage of the last layer")
def normed_last(keys: set[Place], layers: int) -> Iterator[Places]:
    """It comes after the final norm, as transformers' hidden_states[-1] does."""
    end_stage = end_of_layer({key.stage for key in keys})
    last = {key for key in keys if key.stage == end_stage and key.layer == layers - 1}
    if last:
        words = f"the {end_stage} of its last layer comes after the final norm, as transformers' hidden_states[-1] does"
        around = {key for key in keys if key.layer in (None, layers - 1) or (key.layer == layers - 2 and key.stage == end_stage)}
        enough = layers == 1 or any(key.layer == layers - 2 for key in around)
        to_norm: dict[Place, Place] = {key: Place(key.step, None, FINAL_NORM) for key in last}
        yield Places("last-normed", words, _without_doubles(to_norm, keys), frozenset(around) if enough else None)


@convention("qkv_matmul")
def with_biases(keys: set[Place]) -> Iterator[Places]:
    """A product with its bias in it, as a linear layer of PyTorch gives it: the stage behind."""
    moved: dict[Place, Place | None] = {key: key._replace(stage=_BIASED) for key in keys if key.stage == _PRODUCT}
    if moved and not any(key.stage == _BIASED for key in keys):
        words = f"its {_PRODUCT} are {_BIASED}: the biases are in them, as in what a linear layer of PyTorch gives"
        yield Places("with-biases", words, moved, witnessed=True)


def _hidden_state(key: Place, layers: int, *, normed: bool) -> Place:
    step, number, stage = key
    if number == 0:
        return Place(step, 0, EMBEDDING)
    return Place(step, None, FINAL_NORM) if normed and number == layers else Place(step, (number or 0) - 1, stage)


def _without_doubles(moved: Mapping[Place, Place], keys: set[Place]) -> dict[Place, Place | None]:
    """A tensor whose new place another one holds, which does not move itself, is there twice."""
    return {key: None if target in keys and target not in moved else target for key, target in moved.items()}

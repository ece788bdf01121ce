"""What sentences call several tensors at once: stages of the same layers together, and layers in a row by their ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aprgraph.graph.words import joined, listed
from aprgraph.runtime.place import Place

#: The largest number of stages that a sentence names.
NAMED = 4
#: So many layers are named that are not in a row.
_LAYERS = 8


def named_stage(keys: Sequence[Place]) -> str:
    """Tensors of one step and stage: the label of one, the layers of several: ``ffn_gate of the layers 0 to 2``."""
    first = keys[0]
    layers = [key.layer for key in keys if key.layer is not None]
    if len(layers) < 2:
        return first.label
    step = f"step {first.step} " if first.step else ""
    return f"{step}{first.stage} of the layers {_layers(layers)}"


def named_together(keys: Iterable[Place]) -> str:
    """Tensors of any: ``q_post_rope and k_post_rope of the layers 0 to 2``, ``layer 3 ffn_gate and lm_head``."""
    by_stage: dict[tuple[int, str], list[Place]] = {}
    for key in keys:
        by_stage.setdefault((key.step, key.stage), []).append(key)
    by_layers: dict[tuple[int, tuple[int | None, ...]], list[list[Place]]] = {}
    for (step, _), group in by_stage.items():
        by_layers.setdefault((step, tuple(key.layer for key in group)), []).append(group)
    texts = []
    for (step, layers), groups in by_layers.items():
        stages = listed_and((group[0].stage for group in groups), NAMED)
        at = f"step {step} " if step else ""
        if len(layers) > 1:
            texts.append(f"{at}{stages} of the layers {_layers([layer for layer in layers if layer is not None])}")
        elif layers[0] is not None:
            texts.append(f"{at}layer {layers[0]} {stages}")
        else:
            texts.append(f"{at}{stages}")
    return listed_and(texts, NAMED)


def listed_and(names: Iterable[str], most: int) -> str:
    """``a, b and c``; of more than ``most``, how many more there are."""
    texts = list(names)
    return joined(texts) if len(texts) <= most else listed(texts, most)


def _layers(layers: Sequence[int]) -> str:
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers[:_LAYERS])) + (" …" if len(layers) > _LAYERS else "")

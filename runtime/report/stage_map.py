"""The map of stages by layers: one cell per tensor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.place import Place

#: The column of whole-model stages.
WHOLE_MODEL = "model"


@dataclass(frozen=True)
class MapLine:
    """One stage: the number of its row in each column, None where there is no such tensor; the last column is the whole model."""

    stage: str
    cells: tuple[int | None, ...]


@dataclass(frozen=True)
class StageMap:
    """The map of one step. ``columns`` are the layers, and WHOLE_MODEL for whole-model stages."""

    step: int
    title: str
    columns: tuple[str, ...]
    lines: tuple[MapLine, ...]
    is_first: bool

    @property
    def has_model(self) -> bool:
        """Whether the last column is the whole model."""
        return self.columns[-1] == WHOLE_MODEL


def make_maps(report: Comparison, current: int | None) -> list[StageMap]:
    """One map a step. ``is_first`` is true for the one that holds row ``current``, which is where a reader should begin."""
    steps = sorted({row.key.step for row in report.rows})
    begin = report.rows[current].key.step if current is not None else steps[0] if steps else None
    return [_make_map(report, step, is_first=step == begin) for step in steps]


def _make_map(report: Comparison, step: int, *, is_first: bool) -> StageMap:
    numbers = {row.key: number for number, row in enumerate(report.rows) if row.key.step == step}
    columns, stages = lay_out(numbers)
    lines = tuple(MapLine(stage, tuple(numbers.get(Place(step, layer, stage)) for layer in columns)) for stage in stages)
    names = tuple(WHOLE_MODEL if layer is None else str(layer) for layer in columns)
    return StageMap(step, "the prompt" if step == 0 else f"step {step}", names, lines, is_first)


def lay_out(places: Collection[Place]) -> tuple[list[int | None], list[str]]:
    """The columns of a map, layers and None for the whole model, and its lines, of places of one step in execution order."""
    by_layer: dict[int | None, list[str]] = {}
    for place in places:
        by_layer.setdefault(place.layer, []).append(place.stage)
    columns: list[int | None] = [*sorted(layer for layer in by_layer if layer is not None), *([None] if None in by_layer else [])]
    # Rows stand in execution order layer by layer; a stage that only later layers have stands where it is first seen there.
    return columns, _merge([by_layer[layer] for layer in columns])


def _merge(orders: list[list[str]]) -> list[str]:
    """One order of all stages that keeps each layer's."""
    merged: list[str] = []
    for order in orders:
        at = 0 if set(order) & set(merged) else len(merged)  # the whole model's stages come after every layer's
        for stage in order:
            if stage in merged:
                at = merged.index(stage) + 1
            else:
                merged.insert(at, stage)
                at += 1
    return merged

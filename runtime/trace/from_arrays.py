"""Traces from arrays that somebody else computed: every name and shape is checked before anything is written."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.graph.stage_parts import PARTS, split_part, stage_or_part
from aprgraph.graph.stage_suggestions import did_you_mean
from aprgraph.graph.stages import STAGE_BY_NAME, STAGES, Stage, StageKind, is_logits
from aprgraph.graph.words import joined
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32, WHOLE_MODEL
from aprgraph.runtime.trace.array_shapes import fit_shapes, regrouped
from aprgraph.runtime.trace.array_values import arithmetic_of, check_values, to_f32, to_numpy
from aprgraph.runtime.trace.destination import author_of
from aprgraph.runtime.trace.joined_parts import Parts, by_execution, join_parts
from aprgraph.runtime.trace.manifest import ARITHMETICS, QK_ROWS, TraceEntry, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter

_NAME = re.compile(r"(?:step-?(\d+)[./])?(?:layer-?(\d+)[./])?(\w+(?:\[\w*\])?)", re.ASCII)


def write_arrays(
    directory: str | Path,
    tensors: Mapping[Any, Any],
    tokens: Sequence[int],
    model: Mapping[str, Any],
    target: str,
    extra: Mapping[str, Any],
    *,
    force: bool = False,
) -> Trace:
    """What ``Trace.write`` does; ``extra`` is that of TraceInfo. Raises TraceError."""
    directory = Path(directory)
    where = str(directory)
    _check_ids(where, "tokens", tokens)
    _check_ids(where, "generated tokens", extra.get("generated", ()))
    if extra.get("weights", "float") not in ("float", "quantised"):
        raise TraceError(f"{where}: weights {shown(extra['weights'])}, expected float or quantised")
    if extra.get("arithmetic", ARITHMETICS[0]) not in ARITHMETICS:
        raise TraceError(f"{where}: arithmetic {shown(extra['arithmetic'])}, expected one of {', '.join(ARITHMETICS)}")
    if extra.get(QK_ROWS, PAIRINGS[0]) not in PAIRINGS:
        raise TraceError(f"{where}: {QK_ROWS} {shown(extra[QK_ROWS])}, expected {' or '.join(PAIRINGS)}")
    fitted = fit_arrays(where, tensors, len(tokens))
    extra = _with_arithmetic(extra, fitted.types)
    info = TraceInfo(model, target, tuple(int(token) for token in tokens), fitted.plan, fitted.positions, "", extra)
    writer = TraceWriter(directory, author=author_of(info), force=force)
    with contextlib.closing(writer):
        for entry, key in fitted.entries:
            name = entry.stage if entry.layer is None else f"layer{entry.layer}.{entry.stage}"
            writer.write(name, entry.stage, entry.layer, entry.step, read_fitted(tensors, key, entry.shape))
        return writer.finish(info)


@dataclass(frozen=True)
class FittedArrays:
    """Arrays in their places and shapes: ``entries``, in execution order, each with its key among the arrays, or with those of its Parts.

    ``types`` names the type of each array's elements, and ``regrouped`` says which are read in other axes than their own.
    """

    entries: tuple[tuple[TraceEntry, Any], ...]
    types: Mapping[Place, str]
    regrouped: str | None = None

    @property
    def positions(self) -> str:
        """``all`` where there are logits of more than the last position, else ``last``."""
        return "all" if any(is_logits(entry.stage) and len(entry.shape) == 2 for entry, _ in self.entries) else "last"

    @property
    def plan(self) -> str:
        """The plan that would have recorded these."""
        return describe_plan([entry for entry, _ in self.entries])

    def positions_of_steps(self) -> list[int]:
        """How many positions each step has, as most of its tensors do that have an axis of them, from the first on."""
        votes: dict[int, Counter[int]] = {}
        for entry, _ in self.entries:
            if STAGE_BY_NAME[entry.stage].dims[0] == "n":
                votes.setdefault(entry.step, Counter())[entry.shape[0]] += 1
        return [votes[step].most_common(1)[0][0] for step in sorted(votes)]


def fit_arrays(where: str, tensors: Mapping[Any, Any], tokens: int) -> FittedArrays:
    """The places and shapes of ``tensors``, of a prompt of so many ``tokens`` (0: not known). Keys are those of ``Trace.write``.

    Each array is looked at once and not kept. Raises TraceError for names, types, values and shapes that do not fit the
    stage table.
    """
    entries = _read_keys(where, tensors)
    given, types = {}, {}
    for key, entry in entries:
        given[entry.key], types[entry.key] = _check_array(where, entry, tensors[key])
    ordered = sorted(entries, key=lambda item: by_execution(item[1]))
    shapes = fit_shapes(where, [entry for _, entry in ordered], given, tokens)
    fitted = join_parts(where, [(replace(entry, shape=shapes[entry.key]), key) for key, entry in ordered])
    return FittedArrays(tuple(fitted), types, regrouped(given, shapes))


def read_fitted(tensors: Mapping[Any, Any], key: Any, shape: tuple[int, ...]) -> F32:
    """The array of a key of FittedArrays in ``shape``, each element rounded to float32; parts side by side in each row."""
    if isinstance(key, Parts):
        return np.concatenate([f32_of(tensors[one], own) for one, own in key.keys], axis=-1)
    return f32_of(tensors[key], shape)


def f32_of(value: Any, shape: tuple[int, ...]) -> F32:
    """An array that has been looked at, each element rounded to float32, in ``shape``."""
    return to_f32(to_numpy(value)[0].reshape(shape))


def _check_array(where: str, entry: TraceEntry, value: Any) -> tuple[tuple[int, ...], str]:
    """The shape of one tensor, and the name of its elements' type. Raises TraceError."""
    try:
        array, name = to_numpy(value)
        stage = stage_or_part(entry.stage)
        assert stage is not None
        can_be_masked = stage.is_masked and not stage.rows_sum_to_1  # a softmax makes weights of 0 of them
        check_values(array, name, can_be_masked=can_be_masked, is_index=stage.kind is StageKind.INDEX)
    except TraceError as error:
        raise TraceError(f"{where}: {entry.label} {error}") from None
    return array.shape, name


def _with_arithmetic(extra: Mapping[str, Any], types: Mapping[Place, str]) -> Mapping[str, Any]:
    """``extra`` with the arithmetic that the types of the tensors show, where none was given."""
    kinds = {stage: found.kind for _, _, stage in types if (found := stage_or_part(stage)) is not None}
    shown_by = arithmetic_of(name for (_, _, stage), name in types.items() if kinds[stage] is not StageKind.INDEX)
    if "arithmetic" in extra or shown_by is None:
        return extra
    arithmetic, note = shown_by
    return {**extra, "arithmetic": arithmetic, "notes": [*extra.get("notes", ()), note]}


def _check_ids(where: str, what: str, ids: Sequence[Any]) -> None:
    for token in ids:
        if _whole(token) is None:
            raise TraceError(f"{where}: {shown(token)} among the {what}, expected whole numbers of at least 0")


def _read_keys(where: str, tensors: Mapping[Any, Any]) -> list[tuple[Any, TraceEntry]]:
    """Each key of ``tensors``, with an entry that has no shape yet."""
    if not tensors:
        raise TraceError(f"{where}: no tensors to write")
    seen: dict[Place, object] = {}
    result = []
    for key in tensors:
        entry = _read_key(where, key)
        if entry.key in seen:
            raise TraceError(f"{where}: {entry.label} is given twice, as {shown(seen[entry.key])} and as {shown(key)}; drop one of them")
        seen[entry.key] = key
        result.append((key, entry))
    return result


def split_name(name: str) -> tuple[int, int | None, str] | None:
    """The step, the layer and the stage, or part of one, of a name such as ``step2.layer3.ffn_gate``, known or not; None for others."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1] or 0), None if match[2] is None else int(match[2]), match[3])


def is_place_of_array(name: str) -> bool:
    """Whether an array of this name is that of a stage: a known one, with a layer where one belongs."""
    step_layer_stage = split_name(name)
    if step_layer_stage is None:
        return False
    _, layer, word = step_layer_stage
    stage = stage_or_part(word)
    return stage is not None and stage.per_layer == (layer is not None) and not (stage.first_layer_only and layer)


def read_name(where: str, name: object) -> Place:
    """The place that a name such as ``layer3.ffn_gate``, or a tuple such as ``(3, "ffn_gate")``, is of; its stage may be a part of one,
    ``qkv_matmul[q]``. Raises TraceError.
    """
    return _read_key(where, name).key


def _read_key(where: str, key: object) -> TraceEntry:
    if isinstance(key, str):
        if (named := split_name(key)) is None:
            raise TraceError(f"{where}: {shown(key)} names no tensor, expected such as 'layer3.ffn_gate', 'lm_head' or 'step2.lm_head'")
        when, given, name = named
    elif isinstance(key, tuple) and len(key) in (2, 3) and isinstance(key[1], str):
        given, name, when = key[0], key[1], key[2] if len(key) == 3 else 0
    else:
        raise TraceError(
            f"{where}: {shown(key)} names no tensor, expected (layer, stage), (layer, stage, step) or a name such as 'layer3.ffn_gate'"
        )
    stage, layer, step = _known_stage(where, key, name), _whole(given), _whole(when)
    name = stage.name
    if step is None:
        raise TraceError(f"{where}: {shown(key)}: step {shown(when)}, expected a whole number of at least 0")
    if not stage.per_layer and given is not None:
        raise TraceError(f"{where}: {shown(key)}: {name} is a whole-model stage, expected no layer (None)")
    if stage.per_layer and (layer is None or layer >= WHOLE_MODEL):
        raise TraceError(f"{where}: {shown(key)}: {name} belongs to a layer, expected its number, from 0")
    if stage.first_layer_only and layer != 0:
        raise TraceError(f"{where}: {shown(key)}: {name} is in layer 0 alone")
    return TraceEntry(name, layer, step, (), None)


def _known_stage(where: str, key: object, name: str) -> Stage:
    """The stage, or the part of one, called ``name``. Raises TraceError, naming those that there are."""
    stage = stage_or_part(name)
    if stage is not None:
        return stage
    word, part = split_part(name)
    whole = stage_or_part(word)
    if whole is None:
        near = did_you_mean(word)  # otherwise all that there are, of all families
        valid = "" if near else f"; expected one of: {', '.join(stage.name for stage in STAGES)}"
        raise TraceError(f"{where}: {shown(key)}: unknown stage {shown(word)}{near}{valid}")
    parts = PARTS.get(whole.name)
    expected = f"{whole.name} alone" if parts is None else joined([f"{whole.name}[{one}]" for one in parts], "or")
    raise TraceError(f"{where}: {shown(key)}: {whole.name} has no part {shown(part)}, expected {expected}")


def _whole(value: object) -> int | None:
    """``value`` if it is a whole number of at least 0, else None."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        return None
    return int(value)


def describe_plan(entries: Sequence[TraceEntry]) -> str:
    """The plan that would have recorded these."""
    names = {entry.stage for entry in entries}
    layers = [entry.layer for entry in entries if entry.layer is not None]
    chosen = ",".join(stage.name for stage in STAGES if stage.name in names)
    return f"{chosen} {min(layers, default=0)}..{max(layers, default=0) + 1}"

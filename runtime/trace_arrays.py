"""Traces from arrays that somebody else computed: every name and shape is checked before anything is written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.stage_names import did_you_mean
from aprgraph.graph.stages import STAGE_ALIASES, STAGE_BY_NAME, STAGES, Stage
from aprgraph.runtime.aprt import F32, WHOLE_MODEL
from aprgraph.runtime.trace import ARITHMETICS, Trace, TraceEntry, TraceInfo
from aprgraph.runtime.trace_writer import TraceWriter

_NAME = re.compile(r"(?:step-?(\d+)[./])?(?:layer-?(\d+)[./])?(\w+)", re.ASCII)
#: Letters of the stage table that stand for one number in a whole model; F does not, where experts are of another width.
_MODEL_WIDE = ("E", "V", "X", "k", "H", "H*D", "K*D", "(H+2K)*D")


def write_arrays(
    directory: str | Path,
    tensors: Mapping[Any, Any],
    tokens: Sequence[int],
    model: Mapping[str, Any],
    target: str,
    extra: Mapping[str, Any],
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
    entries = _read_keys(where, tensors)
    arrays = {entry.key: np.asarray(tensors[key]) for key, entry in entries}
    ordered = sorted((entry for _, entry in entries), key=lambda entry: entry.order)
    for entry in ordered:
        _check_values(where, entry, arrays[entry.key])
    positions = _check_shapes(where, ordered, arrays, len(tokens))
    writer = TraceWriter(directory)
    with contextlib.closing(writer):
        for entry in ordered:
            name = entry.stage if entry.layer is None else f"layer{entry.layer}.{entry.stage}"
            writer.write(name, entry.stage, entry.layer, entry.step, _to_f32(arrays[entry.key]))
        info = TraceInfo(model, target, tuple(int(token) for token in tokens), _describe(ordered), positions, "", extra)
        return writer.finish(info)


def _check_ids(where: str, what: str, ids: Sequence[Any]) -> None:
    for token in ids:
        if _whole(token) is None:
            raise TraceError(f"{where}: {shown(token)} among the {what}, expected whole numbers of at least 0")


def _read_keys(where: str, tensors: Mapping[Any, Any]) -> list[tuple[Any, TraceEntry]]:
    """Each key of ``tensors``, with an entry that has no shape yet."""
    if not tensors:
        raise TraceError(f"{where}: no tensors to write")
    seen: dict[tuple[int, int | None, str], object] = {}
    result = []
    for key in tensors:
        entry = _read_key(where, key)
        if entry.key in seen:
            raise TraceError(f"{where}: {entry.label} is given twice, as {shown(seen[entry.key])} and as {shown(key)}; drop one of them")
        seen[entry.key] = key
        result.append((key, entry))
    return result


def _read_key(where: str, key: object) -> TraceEntry:
    if isinstance(key, str):
        match = _NAME.fullmatch(key)
        if match is None:
            raise TraceError(f"{where}: {shown(key)} names no tensor, expected such as 'layer3.ffn_gate', 'lm_head' or 'step2.lm_head'")
        given, name, when = None if match[2] is None else int(match[2]), match[3], int(match[1] or 0)
    elif isinstance(key, tuple) and len(key) in (2, 3) and isinstance(key[1], str):
        given, name, when = key[0], key[1], key[2] if len(key) == 3 else 0
    else:
        raise TraceError(
            f"{where}: {shown(key)} names no tensor, expected (layer, stage), (layer, stage, step) or a name such as 'layer3.ffn_gate'"
        )
    name = STAGE_ALIASES.get(name, name)
    if name not in STAGE_BY_NAME:
        valid = ", ".join(stage.name for stage in STAGES)
        raise TraceError(f"{where}: {shown(key)}: unknown stage {shown(name)}{did_you_mean(name)}; expected one of: {valid}")
    stage, layer, step = STAGE_BY_NAME[name], _whole(given), _whole(when)
    if step is None:
        raise TraceError(f"{where}: {shown(key)}: step {shown(when)}, expected a whole number of at least 0")
    if not stage.per_layer and given is not None:
        raise TraceError(f"{where}: {shown(key)}: {name} is a whole-model stage, expected no layer (None)")
    if stage.per_layer and (layer is None or layer >= WHOLE_MODEL):
        raise TraceError(f"{where}: {shown(key)}: {name} belongs to a layer, expected its number, from 0")
    if stage.first_layer_only and layer != 0:
        raise TraceError(f"{where}: {shown(key)}: {name} is in layer 0 alone")
    return TraceEntry(name, layer, step, (), None)


def _whole(value: object) -> int | None:
    """``value`` if it is a whole number of at least 0, else None."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        return None
    return int(value)


def _check_values(where: str, entry: TraceEntry, array: npt.NDArray[Any]) -> None:
    """Raise TraceError unless the elements are numbers that float32 can hold."""
    is_float = array.dtype == ml_dtypes.bfloat16 or (array.dtype.kind == "f" and array.dtype.itemsize <= 8)
    if not is_float and array.dtype.kind not in "iu":
        raise TraceError(
            f"{where}: {entry.label} is {array.dtype}, expected float16, float32, float64, bfloat16 of ml_dtypes, or whole numbers; "
            "convert it with numpy.asarray(…, numpy.float32)"
        )
    if array.dtype.kind in "iu" and not np.array_equal(array.astype(np.float32).astype(np.float64), array.astype(np.float64)):
        raise TraceError(
            f"{where}: {entry.label} holds whole numbers beyond 2^24, which float32 cannot hold exactly; give floats to round them"
        )
    if is_float and array.dtype.itemsize == 8:
        beyond = np.isfinite(array) & ~np.isfinite(_to_f32(array))
        if beyond.any():
            raise TraceError(f"{where}: {entry.label} holds {array[beyond][0]:.3g}, beyond what float32 can hold; scale it")


def _to_f32(array: npt.NDArray[Any]) -> F32:
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _check_shapes(where: str, entries: Sequence[TraceEntry], arrays: Mapping[Any, npt.NDArray[Any]], tokens: int) -> str:
    """Raise TraceError unless the shapes fit the table and each other. Returns "all" or "last", the positions of the logits."""
    known: dict[tuple[str, int | None], tuple[int, str]] = {}
    if tokens:
        known["n", 0] = (tokens, "the list of tokens")
    positions = "last"
    for entry in entries:
        stage, shape = STAGE_BY_NAME[entry.stage], arrays[entry.key].shape
        letters = stage.dims if entry.stage != "lm_head" or len(shape) == 1 else ("n", *stage.dims)
        if len(shape) != len(letters):
            raise TraceError(f"{where}: {entry.label} has the shape {_dims(shape)}, expected {_expected(stage)}")
        if entry.stage == "lm_head" and len(shape) == 2:
            positions = "all"
        for letter, size, scope in _sizes(letters, shape, entry.step):
            # One position of several: other programs keep the last one alone of some stages.
            if letter in ("n", "t") and size == 1:
                continue
            before, label = known.setdefault((letter, scope), (size, entry.label))
            if before != size:
                raise TraceError(
                    f"{where}: {entry.label} has the shape {_dims(shape)}, with {letter} = {size}, but {label} says {before}; "
                    f"expected {_expected(stage)}"
                )
    return positions


def _sizes(letters: Sequence[str], shape: Sequence[int], step: int) -> Iterator[tuple[str, int, int | None]]:
    """Each letter that has to be the same elsewhere, its size, and where: in one step, or (None) in the whole model."""
    for letter, size in zip(letters, shape, strict=True):
        if letter in ("n", "t"):
            # What a prefill attends to is itself.
            yield "n" if step == 0 else letter, size, step
        elif letter in _MODEL_WIDE:
            yield letter, size, None


def _expected(stage: Stage) -> str:
    dims = " x ".join(stage.dims)
    return f"{dims} (or n x {dims})" if stage.name == "lm_head" else dims


def _dims(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "of a single number"


def _describe(entries: Sequence[TraceEntry]) -> str:
    """The plan that would have recorded these."""
    names = {entry.stage for entry in entries}
    layers = [entry.layer for entry in entries if entry.layer is not None]
    chosen = ",".join(stage.name for stage in STAGES if stage.name in names)
    return f"{chosen} {min(layers, default=0)}..{max(layers, default=0) + 1}"

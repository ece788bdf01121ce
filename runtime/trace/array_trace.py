"""Arrays read as a trace, where they lie, in files or in memory: each array that has a place, in the shape of the stage table."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import INSPECT, NAMES, Argument
from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.stage_parts import stage_or_part
from aprgraph.graph.stage_suggestions import remark_on
from aprgraph.graph.stages import StageKind
from aprgraph.graph.words import counted
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.array_files import SAFETENSORS, TORCH
from aprgraph.runtime.trace.array_values import to_numpy
from aprgraph.runtime.trace.float_bits import floats_of, format_of_bits, may_be_bits
from aprgraph.runtime.trace.foreign import ARRAYS
from aprgraph.runtime.trace.from_arrays import FittedArrays, fit_arrays, read_fitted, read_name
from aprgraph.runtime.trace.gguf_arrays import GGUF
from aprgraph.runtime.trace.joined_parts import Parts, whole_of, why_not_whole
from aprgraph.runtime.trace.manifest import PADDING, TraceEntry, TraceInfo
from aprgraph.runtime.trace.name_map import EXAMPLE, LEFT_OUT, NameMap
from aprgraph.runtime.trace.onnx_tensor import ONNX
from aprgraph.runtime.trace.padding import MASK, PaddedTensors, Padding, read_padding
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.token_arrays import TOKENS, read_tokens
from aprgraph.runtime.trace.unread_files import Unread, name_of_place, suggest_place

_NUMBER = re.compile(r"\d+")


class ArrayTrace(Trace):
    """The arrays of ``path`` that have places. An entry's ``file`` is the array's name, or those of its parts; what has no place stands
    in ``unread``, and what a rule leaves out in ``left_out``.
    """

    def __init__(self, path: Path, arrays: Mapping[str, Any], names: NameMap, strangers: Sequence[Unread] = ()) -> None:
        """``strangers`` are files beside the ``arrays``. Raises TraceError for arrays that do not fit the stage table, and where none
        has a place.
        """
        where = str(path)
        self.names = tuple(arrays)
        every, self.left_out = _places(where, arrays, names)
        lacking = why_not_whole(every)
        places = {place: name for place, name in every.items() if whole_of(place) not in lacking}
        if not places:
            raise TraceError(f"{where}: {next(iter(lacking.values()))}")
        tokens = read_tokens(where, arrays, {*every.values(), *self.left_out})
        given: dict[tuple[int | None, str, int], Any] = {(place.layer, place.stage, place.step): name for place, name in places.items()}
        arrays, self.read_as = _with_floats(where, arrays, places)
        self._arrays = _Renamed(arrays, given)
        fitted = _fit(where, self._arrays, len(tokens.prompt), in_steps=any(place.step for place in places))
        self.regrouped = fitted.regrouped
        self._keys: dict[str, Any] = {}
        entries = []
        for one, key in fitted.entries:
            file = " + ".join(given[part] for part, _ in key.keys) if isinstance(key, Parts) else given[key]
            self._keys[file] = key
            entries.append(TraceEntry(one.stage, one.layer, one.step, one.shape, file))
        why_not = {name: lacking[whole] for place, name in every.items() if (whole := whole_of(place)) in lacking}
        read = {*places.values(), *self.left_out, *tokens.names}
        padding = None if MASK in read else read_padding(arrays, entries, len(tokens.prompt))
        if isinstance(padding, str):
            why_not[MASK] = padding
        elif padding is not None:
            read.add(MASK)
        unread = [Unread(name, why_not[name], kind="array") if name in why_not else _unread(name) for name in arrays if name not in read]
        self._padded: PaddedTensors | None = None
        ids, extra = tokens.prompt, dict[str, Any](generated=list(tokens.generated)) if tokens.generated else {}
        if isinstance(padding, Padding) and padding.count:
            self._padded = PaddedTensors(padding, entries)
            entries, ids = self._padded.entries, ids[padding.start : padding.stop]
            extra |= {PADDING: padding.start}
            unread += self._padded.hidden
            self.read_as += (padding.sentence,)
        writers = {TORCH: "torch", SAFETENSORS: "safetensors", ONNX: "onnx", (GGUF,): "gguf"}
        by = next((name for endings, name in writers.items() if path.suffix.lower() in endings), "numpy")
        info = TraceInfo({}, by, ids, fitted.plan, fitted.positions, "", extra)
        super().__init__(path, entries, info, [*unread, *strangers], has_manifest=False)

    def load_unverified(self, entry: TraceEntry) -> F32:
        """The array of ``entry``, each element rounded to float32; see ``Trace.load``."""
        assert entry.file is not None
        key = self._keys[entry.file]
        if self._padded is None:
            return read_fitted(self._arrays, key, entry.shape)
        return self._padded.without(entry.file, lambda shape: read_fitted(self._arrays, key, shape))


def _fit(where: str, arrays: Mapping[Any, Any], tokens: int, *, in_steps: bool) -> FittedArrays:
    """The places and shapes of ``arrays``, of a prompt of so many ``tokens``: in step 0, or in parts, which are the first steps."""
    try:
        return fit_arrays(where, arrays, tokens)
    except TraceError:
        if not in_steps or not tokens:
            raise
        fitted = fit_arrays(where, arrays, 0)
        if tokens not in accumulate(fitted.positions_of_steps()):
            raise
        return fitted


def by_name(where: str, arrays: Mapping[Any, Any]) -> dict[str, Any]:
    """``arrays`` whose keys are strings or tuples, as ``Trace.write`` takes them, by names. Raises TraceError for other keys."""
    found: dict[str, Any] = {}
    for key, value in arrays.items():
        name = key if isinstance(key, str) else read_name(where, key).name
        if name in found:
            raise TraceError(f"{where}: {name} is given twice, once as {shown(key)}; drop one of them")
        found[name] = value
    return found


def _with_floats(where: str, arrays: Mapping[str, Any], places: Mapping[Place, str]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """``arrays`` with floats where whole numbers of 16 bits hold the bits of stages' floats, and a sentence that says so.

    Raises TraceError where it cannot be told of which format the bits are.
    """
    names, telling = [], []
    for place, name in places.items():
        stage = stage_or_part(place.stage)
        if stage is not None and stage.kind is not StageKind.INDEX:
            try:
                array, _ = to_numpy(arrays[name])
            except TraceError:  # it is said where the array is put in its place
                continue
            if may_be_bits(array):
                names.append(name)
                telling += [] if stage.is_masked else [name]
    if not names:
        return arrays, ()
    found = format_of_bits(to_numpy(arrays[name])[0] for name in telling)
    kind = to_numpy(arrays[names[0]])[0].dtype
    if found is None:
        raise TraceError(
            f"{where}: {shown(names[0])} is {kind}, whole numbers where real ones belong, and bits neither of bfloat16 nor of float16 for "
            "certain; save it as float32"
        )
    return _Floats(arrays, frozenset(names), found), (f"{counted(len(names), 'array')} of {kind} are read as the bits of {found}",)


class _Floats(Mapping[str, Any]):
    """``arrays``, of which ``names`` hold the bits of floats of the format ``kind``."""

    def __init__(self, arrays: Mapping[str, Any], names: Collection[str], kind: str) -> None:
        self._arrays, self._names, self._kind = arrays, names, kind

    def __getitem__(self, name: str) -> Any:
        value = self._arrays[name]
        return floats_of(to_numpy(value)[0], self._kind) if name in self._names else value

    def __iter__(self) -> Any:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class _Renamed(Mapping[Any, Any]):
    """``arrays`` under other keys, still read when they are asked for."""

    def __init__(self, arrays: Mapping[str, Any], names: Mapping[Any, str]) -> None:
        self._arrays, self._names = arrays, names

    def __getitem__(self, key: Any) -> Any:
        return self._arrays[self._names[key]]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _places(where: str, arrays: Mapping[str, Any], names: NameMap) -> tuple[dict[Place, str], tuple[str, ...]]:
    """The names of the arrays that have places, by place, and of those that are to be left out."""
    places: dict[Place, str] = {}
    left_out = []
    names.look_up(list(arrays))
    for name in arrays:
        place = names.place_of(where, name)
        if place is None:
            continue
        if place == LEFT_OUT:
            left_out.append(name)
            continue
        if place in places:
            raise TraceError(
                f"{where}: {shown(places[place])} and {shown(name)} are both {place.label}; take one of them, by a narrower ",
                NAMES,
                *_if_of_passes(where, places[place], name),
            )
        places[place] = name
    if not places:
        first = next((_unread(name).sentence for name in arrays if name not in (*left_out, *TOKENS)), None)
        weights = " (they seem to be a model's weights)" if any(name.endswith(".weight") for name in arrays) else ""
        which = "its one array is not" if len(arrays) == 1 else f"none of its {counted(len(arrays), 'array')} is"
        unmatched = ", and no rule gives a place" if names.rules else ""
        none = f"{which} called as a stage is{weights}{unmatched}"
        held = "holds no arrays" if not arrays else "all of its arrays are left out" if first is None else f"{none}; {first}"
        advice: tuple[str | Argument, ...] = ()
        if arrays and not weights and first is not None and where != ARRAYS:
            advice = "; `", INSPECT.given(shlex.quote(where)), "` suggests rules"
        if not arrays:
            raise TraceError(f"{where}: holds no arrays; expected some under names such as 'layer0.ffn_out'")
        raise TraceError(f"{where}: {held}; name places with ", NAMES.given(EXAMPLE, in_python=f"[{EXAMPLE}]"), *advice)
    return places, tuple(left_out)


def _if_of_passes(where: str, name: str, other: str) -> tuple[str | Argument, ...]:
    """What to do with two arrays that may be of one stage in two passes: their names differ in numbers alone."""
    if where == ARRAYS or _NUMBER.sub("", name) != _NUMBER.sub("", other):
        return ()
    return (r", or say of which pass each is (step\1.layer\2.…): `", INSPECT.given(shlex.quote(where)), "` suggests rules")


def _unread(name: str) -> Unread:
    """An array without a place, and where it would have one if its name means what names like it mean."""
    place, word = suggest_place(name)
    remark = None if word is None else remark_on(word)
    suggestion = None if word is None or place is None else name_of_place(place, word)
    return Unread(name, "no stage has this name" + (f" ({remark})" if remark else ""), suggestion, kind="array")

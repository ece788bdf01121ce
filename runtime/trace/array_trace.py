"""Arrays read as a trace, where they lie, in files or in memory: each array that has a place, in the shape of the stage table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import NAMES
from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.stage_suggestions import remark_on
from aprgraph.graph.words import counted
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.array_files import TORCH
from aprgraph.runtime.trace.array_values import to_numpy
from aprgraph.runtime.trace.from_arrays import f32_of, fit_arrays, read_name
from aprgraph.runtime.trace.manifest import TraceEntry, TraceInfo
from aprgraph.runtime.trace.name_map import EXAMPLE, NameMap
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.unread_files import Unread, suggest_place

#: Names under which people keep the token ids of the prompt beside its tensors.
_TOKENS = ("tokens", "token_ids", "input_ids")
_MOST_TOKENS = 1 << 24


class ArrayTrace(Trace):
    """The arrays of ``path`` that have places. An entry's ``file`` is the array's name; what has no place stands in ``unread``."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], names: NameMap, strangers: Sequence[Unread] = ()) -> None:
        """``strangers`` are files beside the ``arrays``. Raises TraceError for arrays that do not fit the stage table, and where none
        has a place.
        """
        where = str(path)
        self.names = tuple(arrays)
        places = _places(where, arrays, names)
        tokens = _tokens(where, arrays, places)
        given: dict[tuple[int | None, str, int], Any] = {(place.layer, place.stage, place.step): name for place, name in places.items()}
        fitted = fit_arrays(where, _Renamed(arrays, given), len(tokens[1]))
        self._arrays = arrays
        entries = [TraceEntry(one.stage, one.layer, one.step, one.shape, given[key]) for one, key in fitted.entries]
        read = {*places.values(), tokens[0]}
        unread = [_unread(name) for name in arrays if name not in read]
        by = "torch" if path.suffix.lower() in TORCH else "numpy"
        info = TraceInfo({}, by, tokens[1], fitted.plan, fitted.positions, "", {})
        super().__init__(path, entries, info, [*unread, *strangers], has_manifest=False)

    def load(self, entry: TraceEntry) -> F32:
        """The array of ``entry``, each element rounded to float32; see ``Trace.load``."""
        assert entry.file is not None
        return f32_of(self._arrays[entry.file], entry.shape)


def by_name(where: str, arrays: Mapping[Any, Any]) -> dict[str, Any]:
    """``arrays`` whose keys are strings or tuples, as ``Trace.write`` takes them, by names. Raises TraceError for other keys."""
    found: dict[str, Any] = {}
    for key, value in arrays.items():
        name = key if isinstance(key, str) else read_name(where, key).name
        if name in found:
            raise TraceError(f"{where}: {name} is given twice, once as {shown(key)}; drop one of them")
        found[name] = value
    return found


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


def _places(where: str, arrays: Mapping[str, Any], names: NameMap) -> dict[Place, str]:
    """The names of the arrays that have places, by place."""
    places: dict[Place, str] = {}
    names.look_up(list(arrays))
    for name in arrays:
        place = names.place_of(where, name)
        if place is None:
            continue
        if place in places:
            raise TraceError(
                f"{where}: {shown(places[place])} and {shown(name)} are both {place.label}; take one of them, by a narrower ", NAMES
            )
        places[place] = name
    if not places:
        first = next((_unread(name).sentence for name in arrays), None)
        weights = " (they seem to be a model's weights)" if any(name.endswith(".weight") for name in arrays) else ""
        none = f"none of its {counted(len(arrays), 'array')} is called as a stage is{weights}"
        held = "holds no arrays" if first is None else f"{none}; {first}"
        raise TraceError(f"{where}: {held}; name places with ", NAMES.given(EXAMPLE, in_python=f"[{EXAMPLE}]"))
    return places


def _tokens(where: str, arrays: Mapping[str, Any], places: Mapping[Place, str]) -> tuple[str | None, tuple[int, ...]]:
    """The prompt's token ids, and the name of the array that they stand in; (None, ()) where there is none."""
    name = next((name for name in _TOKENS if name in arrays and name not in places.values()), None)
    if name is None:
        return None, ()
    try:
        ids, _ = to_numpy(arrays[name])
    except TraceError as error:
        raise TraceError(f"{where}: {shown(name)} {error}") from None
    flat = ids.reshape(-1)
    one_text = ids.shape in ((flat.size,), (1, flat.size)) and 0 < flat.size < _MOST_TOKENS
    if ids.dtype.kind not in "iu" or not one_text or flat.min() < 0:
        raise TraceError(f"{where}: {shown(name)} is {ids.dtype} of the shape {list(ids.shape)}, expected the token ids of one text, [n]")
    return name, tuple(map(int, flat))


def _unread(name: str) -> Unread:
    """An array without a place, and where it would have one if its name means what names like it mean."""
    place, word = suggest_place(name)
    remark = None if word is None else remark_on(word)
    suggestion = None if word is None or place is None else place.removesuffix(".bin").replace("-", "").replace("/", ".")
    return Unread(name, "no stage has this name" + (f" ({remark})" if remark else ""), suggestion, kind="array")

"""Traces and dumps of other programs, as ``aprgraph inspect`` describes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aprgraph.runtime.trace.array_names import ArrayNames
    from aprgraph.runtime.trace.reader import Trace

#: So many shapes of arrays whose names are alike are told.
_SHAPES = 3


def holds_weights(path: Path) -> bool:
    """Whether the arrays of a file or folder are called as a model's weights are; so are those that cannot be read."""
    from aprgraph.graph.errors import TraceError  # noqa: PLC0415

    try:
        return any(name.endswith(".weight") for name in _arrays_in(path))
    except TraceError:
        return True


def describe_dump(path: Path) -> dict[str, Any]:
    """Another program's file or folder; of arrays without a place, what they are called, and the rules that give them one.

    Raises TraceError for one that cannot be read.
    """
    from aprgraph.graph.errors import TraceError  # noqa: PLC0415
    from aprgraph.runtime.trace.array_files import is_array_file  # noqa: PLC0415
    from aprgraph.runtime.trace.array_names import survey_names  # noqa: PLC0415
    from aprgraph.runtime.trace.from_arrays import is_place_of_array  # noqa: PLC0415
    from aprgraph.runtime.trace.gguf_arrays import is_gguf_of_arrays  # noqa: PLC0415

    has_names = path.is_dir() or is_array_file(path.name) or is_gguf_of_arrays(path)
    try:
        document = describe_trace(path, [])
    except TraceError:
        if not has_names:
            raise
        arrays = _arrays_in(path)
        if not arrays or any(is_place_of_array(name) or name.endswith(".weight") for name in arrays):
            raise  # something else is wrong, or it is a model
        kind = "arrays, none of which is called as a stage is: rules (--map, or --map @FILE for a file of them) say where they belong"
        return {"kind": kind, **_by_pattern(survey_names(arrays), "arrays")}
    return _with_patterns(document, _arrays_in(path)) if has_names and not document["manifest"] else document


def _arrays_in(path: Path) -> Mapping[str, Any]:
    """The arrays of a file or folder by their names. Raises TraceError."""
    from aprgraph.runtime.trace.array_files import open_array_file, open_array_folder  # noqa: PLC0415

    return open_array_folder(path)[0] if path.is_dir() else open_array_file(path)


def _with_patterns(document: dict[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with those of ``arrays`` that were not read, as they have no place, by patterns of their names."""
    from aprgraph.runtime.trace.array_names import survey_names  # noqa: PLC0415

    unread = document.get("unread", {})
    without = {name for name in arrays if name in unread}
    if not without:
        return document
    # Those that have places first: no rule is to give one of these again.
    ordered = {name: arrays[name] for name in sorted(arrays, key=without.__contains__)}
    patterns = [one for one in survey_names(ordered) if without.intersection(one.names)]
    described = document | {"unread": {name: why for name, why in unread.items() if name not in without}}
    if not described["unread"]:
        del described["unread"]
    return described | _by_pattern(patterns, "arrays without a place")


def _by_pattern(found: Sequence[ArrayNames], called: str) -> dict[str, Any]:
    """Arrays by patterns of their names, with their shapes, and the rules that these names suggest."""
    shapes = {one.pattern: " or ".join("x".join(map(str, shape)) or "one number" for shape in one.shapes[:_SHAPES]) for one in found}
    return {
        called: {one.pattern: f"{one.count} of {shapes[one.pattern]}{f' ({one.remark})' if one.remark else ''}" for one in found},
        "rules that their names suggest": {f"--map '{one.rule}'": one.pattern for one in found if one.rule is not None},
    }


def describe_trace(path: Path, names: list[str]) -> dict[str, Any]:
    """A trace, or another program's dump as rules place its arrays. Raises TraceError."""
    from aprgraph.runtime.trace.reader import Trace  # noqa: PLC0415

    trace = Trace.open(path, names=names)
    document: dict[str, Any] = {"kind": "trace", "manifest": trace.has_manifest}
    if trace.info is not None:
        document |= {
            "model": dict(trace.info.model),
            "target": trace.info.target,
            "tokens": list(trace.info.tokens),
            **({"generated": trace.info.extra["generated"]} if "generated" in trace.info.extra else {}),
            "positions": trace.info.positions,
            "plan": trace.info.plan,
        }
    document["tensors"] = {entry.label: f"{'x'.join(map(str, entry.shape))}  {entry.file or 'statistics only'}" for entry in trace.entries}
    damaged = dict(_damaged(trace))
    if damaged:
        document["damaged"] = damaged
    unread = [one for one in trace.unread if not one.damaged]
    if unread:
        document["unread"] = {one.file: one.sentence.removeprefix(f"{one.file}: ") for one in unread}
    if read_as := [*trace.read_as, *([trace.regrouped] if trace.regrouped is not None else [])]:
        document["read as"] = read_as
    if trace.left_out:
        document["left out"] = list(trace.left_out)
    return document


def _damaged(trace: Trace) -> Iterator[tuple[str, str]]:
    """The files that are not the tensors that the manifest describes, each with why, and all are read for that; without one, those
    at the place of a stage whose header is not that of an APRT file of their length.
    """
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    for one in trace.unread:
        if one.damaged:
            yield one.file, one.why
    for entry in trace.entries if trace.has_manifest else ():
        if entry.file is not None:
            try:
                trace.load(entry)
            except AprgraphError as error:
                yield entry.file, str(error)

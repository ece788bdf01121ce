"""Trace directories without a manifest, as other programs leave them: APRT files at the places of stages, and what else lies there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import read_header, whose
from aprgraph.runtime.trace.manifest import MANIFEST, TraceEntry
from aprgraph.runtime.trace.unread_files import SUFFIX, Unread, describe_strangers, explain, list_folder

_LAYER_DIRECTORY = re.compile(r"layer-(\d{1,10})", re.ASCII)
_STEP_DIRECTORY = re.compile(r"step-(\d{1,10})", re.ASCII)


def read_without_manifest(directory: Path) -> tuple[list[TraceEntry], list[Unread]]:
    """The APRT files of a directory without a manifest, and the rest, which is not read. Raises TraceError if there is no APRT file."""
    entries: dict[Place, TraceEntry] = {}
    unread = []
    folder = list_folder(directory)
    for file in folder.files:
        entry = _entry_of(file)
        problem, damaged = None, False
        if entry is not None:
            entry, problem, damaged = _with_size(directory, entry)
        if entry is not None and problem is None and entry.key in entries:
            problem = f"{entries[entry.key].file} is the same tensor"
        if entry is not None and problem is None:
            entries[entry.key] = entry
        elif (one := explain(directory, file, problem)) is not None:
            unread.append(replace(one, damaged=damaged))
    unread += [Unread(name, f"{what}, which is read by itself alone") for name, what in folder.apart.items()]
    if not entries:
        if _is_part_of_a_trace(directory, folder.files):
            raise TraceError(
                f"{directory}: is one folder of a trace, whose tensors are told by where they lie; give the trace, {directory.parent}"
            )
        strangers = describe_strangers(directory, unread, folder.apart)
        raise TraceError(
            f"{directory}: holds neither a manifest ({MANIFEST}) nor APRT files of known stages (layer-<N>/<stage>.bin)",
            "; ",
            strangers,
        )
    return list(entries.values()), unread


def _is_part_of_a_trace(directory: Path, files: Sequence[str]) -> bool:
    """Whether ``directory`` is that of a layer or a step, and what lies in it would be tensors from above."""
    name = directory.absolute().name
    is_part = _LAYER_DIRECTORY.fullmatch(name) is not None or _STEP_DIRECTORY.fullmatch(name) is not None
    return is_part and any(_entry_of(f"{name}/{file}") is not None for file in files)


def _entry_of(file: str) -> TraceEntry | None:
    """The tensor that lies at ``file``, relative to a trace directory; None for what is no place of a stage."""
    *folders, name = file.split("/")
    step, layer = 0, None
    if folders and (match := _STEP_DIRECTORY.fullmatch(folders[0])):
        step, folders = int(match[1]), folders[1:]
    if folders and (match := _LAYER_DIRECTORY.fullmatch(folders[0])):
        layer, folders = int(match[1]), folders[1:]
    stage = STAGE_BY_NAME.get(name.removesuffix(SUFFIX))
    if folders or stage is None or not name.endswith(SUFFIX) or stage.per_layer != (layer is not None):
        return None
    return None if stage.first_layer_only and layer else TraceEntry(stage.name, layer, step, (), file)


def is_place_of_stage(file: str) -> bool:
    """Whether ``file``, relative to a trace directory, lies where a tensor does."""
    return _entry_of(file) is not None


def _with_size(directory: Path, entry: TraceEntry) -> tuple[TraceEntry, str | None, bool]:
    """``entry`` with the number of elements that its header names; what is wrong with that header, if anything is, and whether it is
    damaged.
    """
    assert entry.file is not None
    path = directory / entry.file
    try:
        layer, count = read_header(path)
    except TraceError as error:
        return entry, str(error).removeprefix(f"{path}: "), True
    if layer != entry.layer:
        return entry, f"its header names {whose(layer)}, its folder {whose(entry.layer)}", False
    return replace(entry, shape=(count,)), None, False

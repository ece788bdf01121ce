"""What other programs leave in place of a trace directory, and how it is read: each form with how it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprgraph.graph.arguments import NAMES
from aprgraph.graph.errors import TraceError
from aprgraph.graph.sources.adapter import CONFIG as ADAPTER_CONFIG
from aprgraph.graph.words import and_more
from aprgraph.runtime.trace.aprt import HEADER, MAGIC
from aprgraph.runtime.trace.array_files import is_array_file, open_array_file, open_array_folder
from aprgraph.runtime.trace.gguf_arrays import is_gguf_of_arrays
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from aprgraph.runtime.trace.names import NameRules
from aprgraph.runtime.trace.number_files import is_number_file, is_printed
from aprgraph.runtime.trace.saved_logits import SavedLogits, is_saved_logits
from aprgraph.runtime.trace.single_positions import SinglePositions, check_device, is_single_positions
from aprgraph.runtime.trace.unread_files import list_folder
from aprgraph.runtime.trace.without_manifest import is_place_of_stage

if TYPE_CHECKING:
    from aprgraph.runtime.trace.name_map import NameMap
    from aprgraph.runtime.trace.reader import Trace

#: What sentences call arrays that no file holds.
ARRAYS = "arrays"
#: What says that a folder is something else: a trace, an artifact, a stage alone, a model.
_OTHERS = (MANIFEST, MARKER, "artifact.json", "repro.py", "config.json", ADAPTER_CONFIG)


def open_foreign(path: Path, names: NameMap | None = None) -> Trace | None:
    """What is at ``path`` as a trace; None for trace directories, APRT files and what is nothing of the kind. Raises TraceError.

    ``names`` are for arrays.
    """
    if holds_arrays(path):
        from aprgraph.runtime.trace.array_trace import ArrayTrace  # noqa: PLC0415 -- it is not needed for others
        from aprgraph.runtime.trace.name_map import NameMap  # noqa: PLC0415

        rules = names or NameMap()
        if not path.is_dir():
            return ArrayTrace(path, open_array_file(path), rules)
        arrays, strangers = open_array_folder(path)
        damaged = [one for one in strangers if is_array_file(one.file) or is_number_file(path / one.file)]
        if damaged and not arrays:
            more = and_more(damaged[1:])
            raise TraceError(f"{path}: none of its files of arrays can be read: {damaged[0].file} {damaged[0].why}{more and f';{more}'}")
        return ArrayTrace(path, arrays, rules, strangers) if arrays else None
    if path.is_dir():
        if (path / MANIFEST).exists() or (path / MARKER).exists():
            return None
        check_device(path)
        return SinglePositions(path) if is_single_positions(path) else None
    return SavedLogits(path) if is_foreign_file(path) else None


def holds_arrays(path: Path) -> bool:
    """Whether ``path`` is a file of arrays, or a folder with such files that is nothing else. Raises TraceError."""
    if not path.is_dir():
        if not path.is_file() or _is_aprt(path):
            return False
        return is_array_file(path.name) or is_gguf_of_arrays(path) or is_number_file(path, objects=True) or is_printed(path)
    if any((path / name).exists() for name in _OTHERS):
        return False
    files = list_folder(path).files
    if any(map(is_place_of_stage, files)):
        return False
    return any(map(is_array_file, files)) or any(is_number_file(path / file) for file in files)


def is_foreign_file(path: Path) -> bool:
    """Whether ``path`` is one file that stands for all that a run recorded."""
    return path.is_file() and (holds_arrays(path) or (is_saved_logits(path) and not _is_aprt(path)))


def open_with_names(places: Sequence[Path | Mapping[Any, Any]], names: NameRules) -> list[Trace | Path]:
    """Each of ``places`` that another program left, or that holds arrays itself, opened; the others as they are.

    ``names`` are the rules of a NameMap. Raises TraceError for what cannot be read, and for names that are of no array.
    """
    rules = None
    if names:
        from aprgraph.runtime.trace.name_map import NameMap  # noqa: PLC0415 -- it is not needed for others

        rules = NameMap(names)
    opened = [_open_arrays(one, rules) if isinstance(one, Mapping) else open_foreign(one, rules) or one for one in places]
    if rules is not None:
        from aprgraph.runtime.trace.array_trace import ArrayTrace  # noqa: PLC0415

        dumps = [one for one in opened if isinstance(one, ArrayTrace)]
        if not dumps:
            one, is_no = " and ".join(map(str, opened)), "are no such" if len(opened) > 1 else "is no such"
            raise TraceError(NAMES, f" names arrays of .npz, .npy, .pt and .safetensors files; {one} {is_no}: leave it out")
        dumps[0].read_as += rules.check_used([(str(dump.directory), dump.names) for dump in dumps])
    return opened


def _open_arrays(arrays: Mapping[Any, Any], names: NameMap | None) -> Trace:
    from aprgraph.runtime.trace.array_trace import ArrayTrace, by_name  # noqa: PLC0415
    from aprgraph.runtime.trace.name_map import NameMap  # noqa: PLC0415

    return ArrayTrace(Path(ARRAYS), by_name(ARRAYS, arrays), names or NameMap())


def _is_aprt(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(HEADER.size).startswith(MAGIC)
    except OSError:
        return False

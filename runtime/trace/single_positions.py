"""Trees of one folder a position, ``pos-<NNNN>/[layer-<N>/]<stage>.bin``, as `apr parity --per-op` leaves them, read as one trace."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stages import STAGE_BY_NAME, Stage
from aprgraph.graph.words import and_more
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32, read_aprt, relative_path
from aprgraph.runtime.trace.from_arrays import describe_plan
from aprgraph.runtime.trace.manifest import TraceEntry, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.unread_files import Unread
from aprgraph.runtime.trace.without_manifest import read_without_manifest

_POSITION = re.compile(r"pos-(\d{1,9})", re.ASCII)
_SHOWN = 4


def is_single_positions(folder: Path) -> bool:
    """Whether a folder holds folders of single positions."""
    return bool(_folders(folder))


def check_device(folder: Path) -> None:
    """Raise TraceError for the folder above two or more such trees, of which one has to be given."""
    if _folders(folder):
        return
    trees = [child.name for child in _children(folder) if child.name in ("cpu", "gpu") and _folders(child)]
    if trees:
        raise TraceError(f"{folder}: holds {' and '.join(trees)}, a trace each; give {' or '.join(str(folder / tree) for tree in trees)}")


class SinglePositions(Trace):
    """The tensors of all positions, one after the other. What the last position alone holds is the last position's.

    Scores, which grow by a place a position, are heads x positions x places, with 0 where a position does not look.
    """

    def __init__(self, folder: Path) -> None:
        """Raises TraceError for positions that are missing, and for what cannot be read."""
        folders = _folders(folder)
        count = max(folders) + 1
        if count > len(folders):  # their number is that of a folder's name, and may be anything
            absent = [f"pos-{position:04}" for position in islice((one for one in range(count) if one not in folders), _SHOWN)]
            named = ", ".join(absent) + and_more(range(count - len(folders) - len(absent)))
            raise TraceError(
                f"{folder}: {named} missing, of {count} positions "
                "counted from 0; a stage is compared at all positions of a prompt, so dump them all"
            )
        self._folders = [folders[position].name for position in sorted(folders)]
        counts: dict[Place, dict[int, int]] = {}
        unread: list[Unread] = []
        for position, name in enumerate(self._folders):
            entries, strangers = read_without_manifest(folder / name)
            unread += [Unread(f"{name}/{one.file}", one.why) for one in strangers]
            for entry in entries:
                if entry.step:
                    unread.append(Unread(f"{name}/{entry.file}", "a decoded token's, where each folder is a position"))
                else:
                    counts.setdefault(entry.key, {})[position] = entry.shape[0]
        read = []
        for key, sizes in counts.items():
            shape, problem = _shape(STAGE_BY_NAME[key.stage], sizes, self._folders)
            file = relative_path(key.stage, key.layer)
            if shape is None:
                unread.append(Unread(f"pos-*/{file}", problem))
            else:
                read.append(TraceEntry(key.stage, key.layer, 0, shape, file))
        if not read:
            raise TraceError(f"{folder}: no tensor of its {len(self._folders)} positions can be read; {unread[0].sentence}")
        ordered = sorted(read, key=lambda entry: entry.order)
        info = TraceInfo({}, "apr", (), describe_plan(ordered), "all", "", {"writer": "apr"})
        super().__init__(folder, ordered, info, unread, has_manifest=False)

    def load_unverified(self, entry: TraceEntry) -> F32:
        """The tensor of all positions, or of the last; see ``Trace.load``."""
        assert entry.file is not None
        last_alone = _positions(STAGE_BY_NAME[entry.stage], entry.shape) < len(self._folders)
        paths = [self.directory / name / entry.file for name in (self._folders[-1:] if last_alone else self._folders)]
        parts = [read_aprt(path)[1] for path in paths]
        if "t" in STAGE_BY_NAME[entry.stage].dims:
            heads, _, places = entry.shape
            parts = [_padded(part.reshape(heads, 1, -1), places) for part in parts]
            return np.concatenate(parts, axis=1)
        return np.concatenate(parts).reshape(entry.shape)


def _padded(scores: F32, places: int) -> F32:
    return np.pad(scores, ((0, 0), (0, 0), (0, places - scores.shape[2])))


def _positions(stage: Stage, shape: Sequence[int]) -> int:
    """How many positions a tensor of this shape is of."""
    return shape[1] if "t" in stage.dims else shape[0] if len(shape) > 1 else 1


def _shape(stage: Stage, sizes: Mapping[int, int], folders: Sequence[str]) -> tuple[tuple[int, ...] | None, str]:
    """The shape of a tensor of which each position in ``sizes`` holds so many elements; None, and why, where there is none."""
    n = len(folders)
    lacking = next((folder for position, folder in enumerate(folders) if position not in sizes), None)
    if lacking is not None and set(sizes) != {n - 1}:
        return None, f"{len(sizes)} of {n} positions hold it, and {lacking} does not"
    first, size = next(iter(sizes.items()))
    if "t" in stage.dims:
        heads, rest = divmod(size, first + 1)
        if rest or any(count != heads * (position + 1) for position, count in sizes.items()):
            return None, f"{folders[first]} holds {size} elements of it, which do not grow by a place a position"
        return (heads, len(sizes), n), ""
    other = next((position for position, count in sizes.items() if count != size), None)
    if other is not None:
        return None, f"{folders[first]} holds {size} elements of it, {folders[other]} {sizes[other]}"
    if len(stage.dims) > 2:
        return None, "of single positions, stages of each expert are not read"
    return ((size,) if stage.is_logits and len(sizes) == 1 else (len(sizes), size)), ""


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())  # file systems list in orders of their own
    except OSError as error:
        raise TraceError(f"{folder}: cannot be read: {error.strerror}") from None


def _folders(folder: Path) -> dict[int, Path]:
    """The folders of positions, by position. Raises TraceError where two are of one."""
    found: dict[int, Path] = {}
    for child in _children(folder):
        match = _POSITION.fullmatch(child.name)
        if match is None:
            continue
        if int(match[1]) in found:
            raise TraceError(f"{folder}: {found[int(match[1])].name} and {child.name} are the same position; take one of them away")
        found[int(match[1])] = child
    return found

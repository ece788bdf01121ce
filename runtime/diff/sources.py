"""What the two arguments of a comparison may be: traces, what other programs leave, APRT files, open traces, arrays by their names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aprgraph.graph.arguments import AUDIT, DIFF, MODEL, RUN, WEIGHTS, Command
from aprgraph.graph.errors import ComparisonError, TraceError, shown
from aprgraph.graph.near_names import did_you_mean_path
from aprgraph.runtime.trace.aprt import read_header
from aprgraph.runtime.trace.foreign import ARRAYS, is_foreign_file, open_with_names
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER, TraceEntry
from aprgraph.runtime.trace.names import NameRules
from aprgraph.runtime.trace.reader import Trace

if TYPE_CHECKING:
    from aprgraph.graph.sources.kind import FileKind

#: Arrays are those of any library, under the names that ``Trace.write`` takes.
Source: TypeAlias = str | Path | Trace | Mapping[Any, Any]
#: The kind of a model, and those of what a run recorded.
_MODEL_KIND, _TRACES = "model", frozenset(("trace", "npz", "npy", "aprt"))
#: Kinds of what others record that say themselves what to record in their place.
_TOLD = ("eval-callback", "kl-divergence")


def is_file(side: Source) -> bool:
    """Whether ``side`` is a single APRT file."""
    if isinstance(side, Trace):
        return side.file is not None
    return not isinstance(side, Mapping) and Path(side).is_file() and not is_foreign_file(Path(side))


def path_of(side: Source) -> Path:
    """What ``side`` was, or is to be, opened by; of arrays what they are called."""
    if isinstance(side, Mapping):
        return Path(ARRAYS)
    return (side.file or side.directory) if isinstance(side, Trace) else Path(side)


def open_foreign_sides(sides: Sequence[Source], names: NameRules = ()) -> list[Source]:
    """``sides`` with what other programs left, and arrays, opened, once, and placed by ``names`` (see NameMap); the others as they are.

    Raises TraceError, also for what is none of these.
    """
    for side in sides:
        if not isinstance(side, str | Path | Trace | Mapping):
            raise TraceError(f"{shown(side)}: expected a trace: a path, an open Trace, or a dict of arrays")
    closed = [side if isinstance(side, Mapping) else Path(side) for side in sides if not isinstance(side, Trace)]
    opened = iter(open_with_names(closed, names) if closed else [])
    return [side if isinstance(side, Trace) else next(opened) for side in sides]


def open_pair(a: Source, b: Source) -> tuple[Trace, Trace]:
    """Open both sides. Two single files become two traces of one entry each.

    Raises TraceError for a path that cannot be read, ComparisonError for a file against a directory.
    """
    try:
        opened = open_source(a), open_source(b)
    except TraceError:
        models = [path_of(side) for side in (a, b) if _is_model(side)]
        if len(models) == len((a, b)):
            python = "aprgraph.weights({!r}, {!r})".format(*map(str, models))
            command = WEIGHTS.given(shlex.join(map(str, models))).with_options(in_python=python)
            what = f"{models[0]} and {models[1]} are models, not traces; `"
            raise TraceError(what, command, "` compares two models, `", RUN, "` records a trace of each, for `", DIFF, "`") from None
        if models:
            judged = judged_by(b if _is_model(a) else a, models[0])
            rest = "` says whether that is a run of it, and `", RUN, "` records a trace of it"
            raise TraceError(_no_trace(models[0]), judged, *rest) from None
        raise
    if is_file(a) != is_file(b):
        file, other = (a, opened[1]) if is_file(a) else (b, opened[0])
        raise ComparisonError(f"{path_of(file)} is a file and {other.directory} {_what(other)}; compare two directories, or two files")
    return opened


def open_audited(trace: Source, names: NameRules, model: object) -> Trace:
    """Open what is to be held to ``model``. Raises TraceError, which says so where the two were given the other way round."""
    try:
        return open_source(*open_foreign_sides([trace], names))
    except TraceError:
        if not _is_model(trace):
            raise
        path = path_of(trace)
        recorded = isinstance(model, str | Path) and (kind := _kind(Path(model))) is not None and kind.name in _TRACES
        judged, what = (
            judged_by(model if recorded else "TRACE", path),
            "is the other way round" if recorded else "says whether a trace is a run of it",
        )
        raise TraceError(*_no_trace(path), judged, f"` {what}, and `", RUN, "` records a trace of it") from None


def judged_by(trace: object, model: Path) -> Command:
    """The command that holds ``trace``, a path or an open one, to ``model``."""
    where = trace.directory if isinstance(trace, Trace) else ARRAYS if isinstance(trace, Mapping) else trace
    given = ARRAYS if str(where) == ARRAYS else repr(str(where))
    in_python = f"aprgraph.audit({given}, {str(model)!r})"
    return AUDIT.given(shlex.quote(str(where))).with_options(MODEL.given(shlex.quote(str(model))), in_python=in_python)


def _no_trace(model: Path) -> str:
    kind = _kind(model)
    return f"{model}: not a trace, nor an APRT file, but {kind.what if kind is not None else 'a model'}; `"


def _is_model(side: Source) -> bool:
    """Whether a side is the path of a model."""
    if not isinstance(side, str | Path):
        return False
    kind = _kind(Path(side))
    return kind is not None and kind.name == _MODEL_KIND


def _kind(path: Path) -> FileKind | None:
    from aprgraph.graph.sources.path_kind import kind_of_path  # noqa: PLC0415 -- which knows all model files

    return kind_of_path(path)


def _what(trace: Trace) -> str:
    return "a directory" if trace.directory.is_dir() else "all that a run recorded"


def open_source(side: Source) -> Trace:
    """Open one side. Raises TraceError for a path that cannot be read, and for arrays that fit no stage."""
    if not isinstance(side, str | Path):
        [side] = open_foreign_sides([side])
    if isinstance(side, Trace):
        return side
    assert not isinstance(side, Mapping)
    path = Path(side)
    if is_file(path):
        return _open_file(path)
    if not path.exists():
        meant = did_you_mean_path(path)
        raise TraceError(f"{path}: no such file or directory{meant}; expected a trace directory, or an APRT file (.bin)")
    return Trace.open(path)


def _require_tensor(path: Path) -> None:
    """Raise TraceError for a file that is something else, as far as that is known."""
    from aprgraph.graph.sources.path_kind import TAKEN, kind_of_path  # noqa: PLC0415 -- which knows all model files

    kind = kind_of_path(path)
    if path.name in (MANIFEST, MARKER):
        raise TraceError(f"{path}: is what a trace says of itself; give its folder, {path.parent}")
    if kind is None or kind.name in ("aprt", "empty", "text"):
        return
    if kind.name in ("npz", "npy"):  # under another name, or it would have been read
        advice = f"it is read where its name ends in .{kind.name}"
    else:
        advice = kind.advice if kind.name in (*TAKEN, *_TOLD) else "docs/captures.md lists what is read, such as .npz files of arrays"
    raise TraceError(f"{path}: not a trace, nor an APRT file, but {kind.what}; ", advice)


def _open_file(path: Path) -> Trace:
    """A trace of this one file. The manifest above it, if it lists the file, tells its shape, tokens and graph."""
    _require_tensor(path)
    inside = path.absolute()
    # A file lies at most two folders deep: step-<i>/layer-<N>/<stage>.bin.
    for depth, directory in enumerate(list(inside.parents)[:3]):
        if (directory / MANIFEST).is_file():
            trace = Trace.open(directory)
            name = inside.relative_to(directory).as_posix()
            listed = [entry for entry in trace.entries if entry.file == name]
            if listed:
                return Trace.of_file(path, list(path.parents)[depth] if depth < len(path.parents) else directory, listed[0], trace.info)
    layer, count = read_header(path)
    return Trace.of_file(path, path.parent, TraceEntry(path.stem, layer, 0, (count,), path.name), None)

"""Artifacts that the user did not name: where they are written, and when one beside a model is used.

They are written into the user's cache. If it cannot be written, they go into a temporary folder of this process.

An artifact beside a model (`model.llvm.aprg`) is used only if this user compiled it. It holds machine code, and the
folder may have been downloaded. So the cache records the digest of the manifest of every artifact that this user
compiles; the manifest holds the digests of the code.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from aprgraph.codegen.artifact import MANIFEST, SUFFIX, Artifact, digest, open_artifact, sources, versions
from aprgraph.codegen.cache.contents import trim_cache_when_due
from aprgraph.codegen.cache.folder import COMPILED_FOLDER, FOLDER_VARIABLE, cache_folder
from aprgraph.codegen.compile_model import compile_model, default_directory
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.graph.arithmetics import PLAIN, parse_arithmetic
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.families.own_code import is_own_family
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.temporary_files import folder_of_this_process
from aprgraph.graph.text import print_graph
from aprgraph.graph.whole_file import write_whole

#: Called with a notice for the user, a sentence.
OnNotice = Callable[[str], None]

_REMEDY = f"set {FOLDER_VARIABLE} to a folder that can be written"


def compile_artifact(
    model: Model,
    target: str,
    directory: Path | None,
    cpu: str | None = None,
    architectures: Sequence[str] = (),
    arithmetic: str = PLAIN,
) -> Artifact:
    """Compile as ``compile_model`` does, record the artifact as this user's own, and trim the cache to its limit when due."""
    artifact = compile_model(model, target, directory, cpu, architectures, arithmetic)
    if artifact.library_digest is not None:  # else nothing went into the cache
        _remember(artifact)
        trim_cache_when_due()
    return artifact


def cache_directory(model: Model, target: str, cpu: str | None, folder: Path | None = None, arithmetic: str = PLAIN) -> Path | None:
    """The folder in which `run model.gguf` keeps its artifact; None if there is no cache.

    It has another name for another file content, path, target, CPU, arithmetic, override or version. For a family that is not in
    the package, its name depends on the graph too, since the family's file may change. It lies in ``folder``
    (default: the user's cache).
    """
    base = folder or cache_folder()
    if base is None:
        return None
    cpu_name = find_cpu(cpu).name if target == "llvm" else ""
    place = str(model.path.resolve())
    parts = [model.file.fingerprint(), place, target, cpu_name, dict(model.overrides), versions(), sources()]
    parts += [list(model.ignore)] if model.ignore else []
    parts += [] if arithmetic == PLAIN else [parse_arithmetic(arithmetic).text]
    from_outside = model.held is not None or is_own_family(type(model.family))
    parts += [print_graph(build_graph(model))] if from_outside else []
    return base / f"{model.stem}.{target}.{digest(json.dumps(parts, sort_keys=True).encode())}{SUFFIX}"


def find_in_cache(model: Model, target: str, cpu: str | None, arithmetic: str = PLAIN) -> Artifact | None:
    """The artifact of ``model`` in the user's cache; None if it is missing or damaged.

    Raises ArtifactError for a ``cpu`` that is not known, and GraphError for such an arithmetic.
    """
    place = cache_directory(model, target, cpu, arithmetic=arithmetic)
    if place is None:
        return None
    try:
        found = open_artifact(place)
    except ArtifactError:
        return None
    with contextlib.suppress(OSError):
        os.utime(place)  # contents.py takes it for the time of the last use
    return found


def find_beside(model: Model, target: str, cpu: str | None, on_notice: OnNotice | None = None, arithmetic: str = PLAIN) -> Artifact | None:
    """The artifact of the default name beside ``model`` if compiling it here would give the same; else None.

    The file content, overrides, ignored names, graph, arithmetic, CPU, versions and sources must be equal. If it has code that
    this user did not compile, the result is None and ``on_notice`` is called. Raises ArtifactError for an unknown
    ``cpu``.
    """
    place = model.path.with_name(default_directory(model.stem, target, arithmetic).name)
    chosen = find_cpu(cpu).name if target == "llvm" else None
    try:
        found = open_artifact(place)
    except ArtifactError:
        return None
    same = (
        found.fingerprint == model.file.fingerprint()
        and (found.target, found.cpu) == (target, chosen)
        and (dict(found.overrides), found.ignore) == (dict(model.overrides), tuple(model.ignore))
        and found.arithmetic == parse_arithmetic(arithmetic).text
        and found.sources == sources()
        and found.graph == build_graph(model)
    )
    if not same:
        return None
    if found.library_digest is not None and not _is_own(found):
        if on_notice is not None:
            on_notice(f"{place} was not compiled by this user on this machine, so its code is not run unless you name it")
        return None
    return found


def compile_into_cache(model: Model, target: str, cpu: str | None, on_notice: OnNotice, arithmetic: str = PLAIN) -> Artifact:
    """Compile ``model`` into the user's cache, or, if that cannot be written, into a temporary folder with a notice.

    The temporary folder is removed when this process ends. Raises what ``compile_model`` raises.
    """
    place = cache_directory(model, target, cpu, arithmetic=arithmetic)
    why = "nothing says where the user's cache is"
    if place is not None:
        try:
            artifact = compile_model(model, target, place, cpu, arithmetic=arithmetic)
        except ArtifactError as error:
            if error.place is None:
                raise
            why = error.place.what
        else:
            trim_cache_when_due()
            return artifact
    temporary = _temporary_folder(why)
    on_notice(f"{why}; compiled into a temporary folder, so the next run compiles again: {_REMEDY}")
    place = cache_directory(model, target, cpu, temporary, arithmetic)
    assert place is not None
    return compile_model(model, target, place, cpu, arithmetic=arithmetic)


def _record_of(artifact: Artifact) -> Path | None:
    """The empty file that records that this user compiled ``artifact``; None without a cache. Raises OSError."""
    base = cache_folder()
    return None if base is None else base / COMPILED_FOLDER / digest((artifact.directory / MANIFEST).read_bytes())


def _remember(artifact: Artifact) -> None:
    with contextlib.suppress(OSError):
        record = _record_of(artifact)
        if record is not None:
            record.parent.parent.mkdir(parents=True, exist_ok=True)
            write_whole(record, b"")


def _is_own(artifact: Artifact) -> bool:
    try:
        record = _record_of(artifact)
    except OSError:
        return False
    return record is not None and record.is_file()


def _temporary_folder(why: str) -> Path:
    try:
        return _cache_of_this_process()
    except OSError as error:
        raise ArtifactError(f"{why}, nor {tempfile.gettempdir()}: {error.strerror}; {_REMEDY}") from None


@cache
def _cache_of_this_process() -> Path:
    """A new folder. Raises OSError."""
    return folder_of_this_process("aprgraph-cache-")

"""Where artifacts go that nobody named a place for, and which artifact beside a model is run without being named.

Artifacts go into the user's cache, or, where that cannot be written, into a folder of this process. An artifact holds
machine code, and a model's folder may have come from anywhere. So one that lies beside a model is taken by itself only if
this user compiled it: the cache remembers the digest of its manifest, which in turn holds those of its code.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from aprgraph.codegen.artifact import MANIFEST, SUFFIX, Artifact, compile_model, digest, open_artifact, sources, versions
from aprgraph.codegen.cache.contents import trim_cache
from aprgraph.codegen.cache.folder import COMPILED_FOLDER, FOLDER_VARIABLE, cache_folder
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.families.registry import is_own_family
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import print_graph
from aprgraph.graph.whole_file import write_whole

#: Called with a sentence for the user.
OnNotice = Callable[[str], None]

_REMEDY = f"set {FOLDER_VARIABLE} to a folder that can be written"


def compile_artifact(
    model: Model, target: str, directory: Path | None, cpu: str | None = None, architectures: Sequence[str] = ()
) -> Artifact:
    """What ``compile_model`` does, remembered as this user's own, with the cache kept within its limit."""
    artifact = compile_model(model, target, directory, cpu, architectures)
    if artifact.library_digest is not None:
        _remember(artifact)
    trim_cache()
    return artifact


def cache_directory(model: Model, target: str, cpu: str | None, folder: Path | None = None) -> Path | None:
    """Where `run model.gguf` keeps its artifact: one place per file content, target, CPU, overrides and versions.

    For a family that is not in the package also per graph, since its file may change. It lies in ``folder`` (default: the
    user's cache). None where there is no cache.
    """
    base = folder or cache_folder()
    if base is None:
        return None
    cpu_name = find_cpu(cpu).name if target == "llvm" else ""
    place = str(model.path.resolve())
    parts = [model.file.fingerprint(), place, target, cpu_name, dict(model.overrides), versions(), sources()]
    parts += [list(model.ignore)] if model.ignore else []
    parts += [print_graph(build_graph(model))] if is_own_family(type(model.family)) else []
    return base / f"{model.path.stem}.{target}.{digest(json.dumps(parts, sort_keys=True).encode())}{SUFFIX}"


def find_in_cache(model: Model, target: str, cpu: str | None) -> Artifact | None:
    """The artifact of ``model`` in the user's cache; None if it is not there or damaged. Raises ArtifactError for no CPU."""
    place = cache_directory(model, target, cpu)
    if place is None:
        return None
    try:
        found = open_artifact(place)
    except ArtifactError:
        return None
    with contextlib.suppress(OSError):
        os.utime(place)  # contents.py goes by the time of the last use
    return found


def find_beside(model: Model, target: str, cpu: str | None, on_notice: OnNotice | None = None) -> Artifact | None:
    """The artifact ``<stem>.<target>.aprg`` beside ``model``, if it is what compiling ``model`` here would give.

    That is one of the same file content, overrides, ignored names, graph, CPU, versions and sources. Of one with code that
    this user did not compile, ``on_notice`` is told, and it is not taken. Raises ArtifactError for a ``cpu`` that is none.
    """
    place = model.path.with_name(f"{model.path.stem}.{target}{SUFFIX}")
    chosen = find_cpu(cpu).name if target == "llvm" else None
    try:
        found = open_artifact(place)
    except ArtifactError:
        return None
    same = (
        found.fingerprint == model.file.fingerprint()
        and (found.target, found.cpu) == (target, chosen)
        and (dict(found.overrides), found.ignore) == (dict(model.overrides), tuple(model.ignore))
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


def compile_into_cache(model: Model, target: str, cpu: str | None, on_notice: OnNotice) -> Artifact:
    """Compile ``model`` into the user's cache, or, with a notice, into a folder that is gone when this process ends.

    Raises what ``compile_model`` does.
    """
    place = cache_directory(model, target, cpu)
    why = "nothing says where the user's cache is"
    if place is not None:
        try:
            artifact = compile_model(model, target, place, cpu)
        except ArtifactError as error:
            if error.place is None:
                raise
            why = error.place.what
        else:
            trim_cache()
            return artifact
    temporary = _temporary_folder(why)
    on_notice(f"{why}; compiled into a temporary folder, so the next run compiles again: {_REMEDY}")
    place = cache_directory(model, target, cpu, temporary)
    assert place is not None
    return compile_model(model, target, place, cpu)


def _record_of(artifact: Artifact) -> Path | None:
    """The empty file that says that this user compiled ``artifact``. None where there is no cache. Raises OSError."""
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
        return _folder_of_this_process()
    except OSError as error:
        raise ArtifactError(f"{why}, nor {tempfile.gettempdir()}: {error.strerror}; {_REMEDY}") from None


@cache
def _folder_of_this_process() -> Path:
    """A folder that nobody else can read or has made, removed at the end. Raises OSError."""
    folder = tempfile.mkdtemp(prefix="aprgraph-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)

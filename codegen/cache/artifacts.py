"""Artifacts that the user did not name: where they are written, and when one beside a model is used.

They are written into the user's cache. If it cannot be written, they go into a temporary folder of this process.

An artifact beside a model (`model.llvm.aprg`) or in the cache is used only if this user compiled or trusts it
(trust/artifacts.py). It holds machine code, and the folder may have been downloaded, or be one that others can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from aprgraph.codegen.artifact import SUFFIX, Artifact, digest, open_artifact, read_artifact, sources, versions
from aprgraph.codegen.cache.contents import trim_cache_when_due
from aprgraph.codegen.cache.folder import FOLDER_VARIABLE, cache_folder
from aprgraph.codegen.compile_model import compile_model, default_directory
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.codegen.trust.artifacts import is_trusted, trusting
from aprgraph.codegen.trust.folder import REMEDY
from aprgraph.codegen.trust.key import user_key
from aprgraph.graph.arithmetics import PLAIN, parse_arithmetic
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.families.own_code import is_own_family
from aprgraph.graph.message import Message
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.temporary_files import folder_of_this_process
from aprgraph.graph.text import print_graph

#: Called with a notice for the user, a sentence.
OnNotice = Callable[[str], None]

#: What contents.py knows an artifact of the cache by.
_KEY_DIGITS = 24
_REMEDY = f"set {FOLDER_VARIABLE} to a folder that can be written"


def compile_artifact(
    model: Model,
    target: str,
    directory: Path | None,
    cpu: str | None = None,
    architectures: Sequence[str] = (),
    arithmetic: str = PLAIN,
    *,
    on_notice: OnNotice,
) -> Artifact:
    """Compile as ``compile_model`` does, and trim the cache to its limit when due."""
    artifact = compile_model(model, target, directory, cpu, architectures, arithmetic)
    if artifact.library_digest is not None:  # else nothing went into the cache
        if (why := user_key().why) is not None:
            on_notice(f"no key of this user can be kept: {why}; only this process knows that you compiled {artifact.directory}: {REMEDY}")
        trim_cache_when_due()
    return artifact


def cache_directory(model: Model, target: str, cpu: str | None, folder: Path | None = None, arithmetic: str = PLAIN) -> Path | None:
    """The folder in which `run model.gguf` keeps its artifact; None if there is no cache.

    It has another name for another file content, path, target, CPU, arithmetic, override, version or user's key. For a family that is
    not in
    the package, its name depends on the graph too, since the family's file may change. It lies in ``folder``
    (default: the user's cache).
    """
    base = folder or cache_folder()
    if base is None:
        return None
    cpu_name = find_cpu(cpu).name if target == "llvm" else ""
    place = str(model.path.resolve())
    parts = [model.file.fingerprint(), place, target, cpu_name, dict(model.overrides), versions(), sources()]
    parts += [user_key().name] if target != "reference" else []
    parts += [list(model.ignore)] if model.ignore else []
    parts += [] if arithmetic == PLAIN else [parse_arithmetic(arithmetic).text]
    from_outside = model.held is not None or is_own_family(type(model.family))
    parts += [print_graph(build_graph(model))] if from_outside else []
    return base / f"{model.stem}.{target}.{digest(json.dumps(parts, sort_keys=True).encode())[:_KEY_DIGITS]}{SUFFIX}"


def find_in_cache(model: Model, target: str, cpu: str | None, arithmetic: str = PLAIN) -> Artifact | None:
    """The artifact of ``model`` in the user's cache; None if it is missing, damaged, or not this user's.

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
        found = read_artifact(place)
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
    if found.library_digest is not None and not is_trusted(found.directory, found.identity):
        if on_notice is not None:
            why = f"{place} was not compiled by you, so its code is not run; if you trust where it comes from, `"
            on_notice(Message(why, trusting(place), "`"))
        return None
    return found


def compile_into_cache(model: Model, target: str, cpu: str | None, on_notice: OnNotice, arithmetic: str = PLAIN) -> Artifact:
    """Compile ``model`` into the user's cache, or, if that cannot be written, into a temporary folder with a notice.

    The temporary folder is removed when this process ends. Raises what ``compile_model`` raises.
    """
    place = cache_directory(model, target, cpu, arithmetic=arithmetic)
    why, remedy = "nothing says where the user's cache is", _REMEDY
    if target != "reference" and (key := user_key()).why is not None:
        why, remedy = f"no key of this user can be kept: {key.why}", REMEDY
    elif place is not None:
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
    on_notice(f"{why}; compiled into a temporary folder, so the next run compiles again: {remedy}")
    place = cache_directory(model, target, cpu, temporary, arithmetic)
    assert place is not None
    return compile_model(model, target, place, cpu, arithmetic=arithmetic)


def _temporary_folder(why: str) -> Path:
    try:
        return _cache_of_this_process()
    except OSError as error:
        raise ArtifactError(f"{why}, nor {tempfile.gettempdir()}: {error.strerror}; {_REMEDY}") from None


@cache
def _cache_of_this_process() -> Path:
    """A new folder. Raises OSError."""
    return folder_of_this_process("aprgraph-cache-")

"""Where artifacts go that nobody named a place for: the user's cache, or, where that cannot be written, a folder of this process."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from aprgraph.codegen.artifact import SUFFIX, Artifact, compile_model, digest, versions
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.model import Model

#: Called with a sentence for the user.
OnNotice = Callable[[str], None]

_REMEDY = "set APRGRAPH_CACHE to a folder that can be written"


def cache_folder() -> Path | None:
    """The user's cache; None where nothing tells where that is."""
    root = os.environ.get("APRGRAPH_CACHE")
    if root:
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprgraph"
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None


def cache_directory(model: Model, target: str, cpu: str | None, folder: Path | None = None) -> Path | None:
    """Where `run model.gguf` keeps its artifact: one place per file content, target, CPU, overrides and versions.

    It lies in ``folder`` (default: the user's cache). None where there is no cache.
    """
    base = folder or cache_folder()
    if base is None:
        return None
    cpu_name = find_cpu(cpu).name if target == "llvm" else ""
    parts = [model.file.fingerprint(), str(model.path.resolve()), target, cpu_name, dict(model.overrides), versions()]
    parts += [list(model.ignore)] if model.ignore else []
    return base / f"{model.path.stem}.{target}.{digest(json.dumps(parts, sort_keys=True).encode())}{SUFFIX}"


def compile_into_cache(model: Model, target: str, cpu: str | None, on_notice: OnNotice) -> Artifact:
    """Compile ``model`` into the user's cache, or, with a notice, into a folder that is gone when this process ends.

    Raises what ``compile_model`` does.
    """
    place = cache_directory(model, target, cpu)
    why = "nothing says where the user's cache is"
    if place is not None:
        try:
            return compile_model(model, target, place, cpu)
        except ArtifactError as error:
            if error.place is None:
                raise
            why = error.place.what
    temporary = _temporary_folder(why)
    on_notice(f"{why}; compiled into a temporary folder, so the next run compiles again: {_REMEDY}")
    place = cache_directory(model, target, cpu, temporary)
    assert place is not None
    return compile_model(model, target, place, cpu)


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

"""Compiles a model into an artifact, whose directory appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from aprgraph.codegen.artifact import (
    GRAPH,
    MANIFEST,
    SUFFIX,
    Artifact,
    digest,
    fat_binary_in,
    library_in,
    read_artifact,
    sources,
    versions,
)
from aprgraph.codegen.artifact_form import FORMAT, TARGETS, VERSION
from aprgraph.codegen.cpu.levels import Cpu, find_cpu
from aprgraph.codegen.cpu.library import build_library
from aprgraph.codegen.cuda.architectures import Architecture, parse_architectures
from aprgraph.codegen.cuda.compiler import compiler_name
from aprgraph.codegen.cuda.device_code import DeviceCode
from aprgraph.codegen.cuda.library import build_cuda_library
from aprgraph.codegen.kernels.base import KernelRequest, requests_of
from aprgraph.codegen.trust.artifacts import vouch
from aprgraph.graph.arguments import ARCHITECTURES, CPU, TARGET
from aprgraph.graph.arithmetics import PLAIN, EngineArithmetic, parse_arithmetic
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.ir import Graph
from aprgraph.graph.message import message_to_json
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.apply_arithmetic import ApplyArithmetic
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.text import print_graph
from aprgraph.graph.whole_folder import whole_folder
from aprgraph.graph.words import listed

#: What compiling and running put into an artifact, cut off or not.
_OWN_FILE = re.compile(r"artifact\.json|graph\.txt|kernels-[^/]+\.(so|fatbin)|programs/[^/]+\.(vm|tmp)|trusted/[0-9a-f]+|(.*/)?\.[^/]+")
#: What must be free where objects and the library go: LLVM ends the process when it cannot write. The largest need a
#: few MB.
_ROOM = 64 << 20


def default_directory(stem: str, target: str, arithmetic: str = PLAIN) -> Path:
    """``<stem>.<target>.aprg`` in the current folder; in an engine's arithmetic ``<stem>.<target>.<arithmetic>.aprg``."""
    found = parse_arithmetic(arithmetic)
    return Path(f"{stem}.{target}{SUFFIX}" if found.is_exact else f"{stem}.{target}.{found.label}{SUFFIX}")


def compile_model(
    model: Model,
    target: str = "llvm",
    directory: Path | None = None,
    cpu: str | None = None,
    architectures: Sequence[str] = (),
    arithmetic: str = PLAIN,
) -> Artifact:
    """Compile ``model`` into ``directory`` (default: ``default_directory``), replacing an artifact there.

    ``cpu`` is for the target llvm (default: this machine's), ``architectures`` for cuda (default: sm_80 and sm_90), and
    ``arithmetic`` that of the kernels. The directory appears whole or not at all. Raises ArtifactError for an unknown target
    or a place that cannot be written, ToolchainError where a compiler or linker is missing, ModelError for a model that cannot be
    built, and GraphError for an arithmetic that there is not, or that says nothing of the model's weights.
    """
    if target not in TARGETS:
        raise ArtifactError(f"unknown target {target!r}; expected one of {', '.join(TARGETS)}")
    if cpu is not None and target != "llvm":
        raise ArtifactError(CPU.given(cpu, repr(cpu)), " is for ", TARGET.given("llvm", "'llvm'"), f", and the target is {target}")
    if architectures and target != "cuda":
        raise ArtifactError(
            ARCHITECTURES.given(", ".join(architectures), repr([*architectures])),
            " is for ",
            TARGET.given("cuda", "'cuda'"),
            f", and the target is {target}",
        )
    chosen_architectures = parse_architectures(architectures)
    directory = directory or default_directory(model.stem, target, arithmetic)
    _check_replaceable(directory)
    graph = build_graph(model)
    rounding = ApplyArithmetic(arithmetic)(graph)
    chosen = find_cpu(cpu) if target == "llvm" else None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _check_room(directory.parent, Path(tempfile.gettempdir()))
        with whole_folder(directory) as temporary:
            _write(temporary, model, (graph, rounding), target, chosen, chosen_architectures, parse_arithmetic(arithmetic))
    except OSError as error:
        raise ArtifactError.unwritable(directory, error) from None
    return read_artifact(directory)


def _write(
    directory: Path,
    model: Model,
    graphs: tuple[Graph, Graph],
    target: str,
    chosen: Cpu | None,
    architectures: Sequence[Architecture],
    arithmetic: EngineArithmetic,
) -> None:
    """Write the artifact's files into ``directory``: of the model's graph, and of the one that rounds as ``arithmetic`` does."""
    graph, rounding = graphs
    kernels: dict[str, str] = {}
    library = device = None
    if target != "reference":
        requests = requests_of(compiled_graphs(rounding, target))
        kernels = {symbol: request.text for symbol, request in requests.items()}
        new = library_in(directory, "new")
        if chosen is not None:
            build_library(requests, chosen, new)
        else:
            device = _build_for_cuda(requests, architectures, directory)
        library = digest(new.read_bytes())
        new.rename(library_in(directory, library))
    text = print_graph(graph)
    (directory / GRAPH).write_text(text, encoding="utf-8")
    document = {
        "format": FORMAT,
        "version": VERSION,
        **versions(),
        "sources": sources(),
        "target": target,
        "cpu": chosen.name if chosen else None,
        "model": {"path": str(model.path.resolve()), "fingerprint": model.file.fingerprint()},
        "arithmetic": arithmetic.text,
        "overrides": dict(model.overrides),
        "ignore": list(model.ignore),
        "unapplied": list(map(message_to_json, model.doubts_of_keys)),
        "graph": digest(text.encode()),
        "library": library,
        "device": device.to_json() if device else None,
        "kernels": kernels,
    }
    manifest = (json.dumps(document, indent=1) + "\n").encode()
    (directory / MANIFEST).write_bytes(manifest)
    if library is not None:
        vouch(directory, digest(manifest))


def _check_replaceable(directory: Path) -> None:
    """Raise ArtifactError if ``directory`` has what is no artifact, or not of it: compiling would remove that."""
    if not os.path.lexists(directory):
        return
    if not (directory / MANIFEST).is_file():
        raise ArtifactError.at_place(f"{directory}: is there, and is no artifact", "remove it")
    try:
        files = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if not path.is_dir()]
    except OSError as error:
        raise ArtifactError.unwritable(directory, error) from None
    others = [file for file in files if not _OWN_FILE.fullmatch(file)]
    if others:
        raise ArtifactError.at_place(f"{directory}: is an artifact that holds what is not of it ({listed(others, 3)})", "move that away")


def _build_for_cuda(requests: Mapping[str, KernelRequest], architectures: Sequence[Architecture], directory: Path) -> DeviceCode:
    """Build the library "new" in ``directory``, and the fat binary beside it, under its digest."""
    compiler, new = compiler_name(), fat_binary_in(directory, "new")
    functions = build_cuda_library(requests, architectures, library_in(directory, "new"), new)
    name = digest(new.read_bytes())
    new.rename(fat_binary_in(directory, name))
    return DeviceCode(name, tuple(architectures), compiler, functions)


def _check_room(*directories: Path) -> None:
    for directory in directories:
        free = shutil.disk_usage(directory).free
        if free < _ROOM:
            raise ArtifactError.at_place(
                f"{directory}: only {free:,} bytes are free there, expected {_ROOM:,} to compile in", "free some space"
            )

"""Artifacts: what compiling a model leaves on disk, beside which the programs of plans are cached.

    <stem>.<target>.aprg/
        artifact.json   versions, target, CPU, the model's path and fingerprint, the kernels
        graph.txt       the model's graph in its textual form
        kernels.so      the kernel library (not for the reference target)
        programs/       VM bytecode, one file per tapped and pruned graph, made when first needed

It holds no weights. TVM is imported only where something has to be compiled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aprgraph.codegen.cpu import check_runs_here, find_cpu
from aprgraph.graph.build import build_graph
from aprgraph.graph.errors import ArtifactError, GraphError
from aprgraph.graph.ir import Graph
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify

FORMAT = "aprgraph-artifact"
#: Raised whenever kernels, programs or the files above change in a way that older artifacts do not follow.
VERSION = 1
SUFFIX = ".aprg"
TARGETS = ("llvm", "reference")

_MANIFEST, _GRAPH, _KERNELS, _PROGRAMS = "artifact.json", "graph.txt", "kernels.so", "programs"


@dataclass(frozen=True)
class Artifact:
    """A compiled model. ``cpu`` is None for the reference target, which has no kernels."""

    directory: Path
    target: str
    cpu: str | None
    model_path: Path
    fingerprint: str
    overrides: Mapping[str, Scalar | str]
    kernels: Mapping[str, str]
    graph: Graph

    @property
    def library(self) -> Path:
        """The kernel library."""
        return self.directory / _KERNELS

    @property
    def target_name(self) -> str:
        """Target and CPU as traces name them."""
        return self.target if self.cpu is None else f"{self.target} {self.cpu}"

    def load_model(self, path: Path | None = None) -> Model:
        """Open the model that this artifact was compiled from, at its recorded path, beside the artifact, or at ``path``.

        Raises ArtifactError if it is not there or has changed since.
        """
        candidates = [path] if path is not None else [self.model_path, self.directory.parent / self.model_path.name]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise ArtifactError(f"{self.directory}: its model {candidates[0]} is not there; give its place with --model, or compile again")
        model = load_model(found, self.overrides)
        if model.file.fingerprint() != self.fingerprint:
            raise ArtifactError(f"{self.directory}: {found} is not the file it was compiled from, or has changed since; compile it again")
        return model

    def program(self, graph: Graph) -> Path:
        """The program of ``graph`` (this artifact's graph after passes), compiled unless it is there already."""
        text = print_graph(graph)
        name = hashlib.sha256(text.encode()).hexdigest()[:24] + ".vm"
        path = self.directory / _PROGRAMS / name
        if path.is_file():
            return path
        from aprgraph.codegen.program import build_program  # noqa: PLC0415 -- imports the compiler

        if not os.access(self.directory, os.W_OK):
            path = Path(tempfile.mkdtemp(prefix="aprgraph-")) / name
        try:
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{os.getpid()}.{path.name}")
            build_program(graph, temporary)
            temporary.replace(path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from None
        return path


def default_directory(model: Path, target: str) -> Path:
    """``<stem>.<target>.aprg`` in the current folder."""
    return Path(f"{model.stem}.{target}{SUFFIX}")


def cache_directory(model: Model, target: str, cpu: str | None) -> Path:
    """Where `run model.gguf` keeps its artifact: one place per file content, target, CPU, overrides and versions."""
    root = os.environ.get("APRGRAPH_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprgraph"
    cpu_name = find_cpu(cpu).name if target == "llvm" else ""
    key = json.dumps([model.file.fingerprint(), str(model.path.resolve()), target, cpu_name, dict(model.overrides), _versions()], sort_keys=True)
    return base / f"{model.path.stem}.{target}.{hashlib.sha256(key.encode()).hexdigest()[:16]}{SUFFIX}"


def compile_model(model: Model, target: str = "llvm", directory: Path | None = None, cpu: str | None = None) -> Artifact:
    """Compile ``model`` into ``directory`` (default: ``<stem>.<target>.aprg`` here), replacing an artifact that is there.

    The directory appears whole or not at all. Raises ArtifactError for an unknown target or a place that cannot be
    written, and ModelError for a model that cannot be built.
    """
    if target not in TARGETS:
        raise ArtifactError(f"unknown target {target!r}; expected one of {', '.join(TARGETS)}")
    directory = directory or default_directory(model.path, target)
    if directory.exists() and not (directory / _MANIFEST).is_file():
        raise ArtifactError(f"{directory}: is there, and is no artifact; give another place with -o, or remove it")
    graph = build_graph(model)
    chosen = find_cpu(cpu) if target == "llvm" else None
    temporary: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        temporary.chmod(0o755)
        kernels: dict[str, str] = {}
        if chosen is not None:
            from aprgraph.codegen.kernels import requests_of  # noqa: PLC0415 -- imports the compiler
            from aprgraph.codegen.library import build_library  # noqa: PLC0415

            requests = requests_of(compiled_graphs(graph))
            kernels = {symbol: request.text for symbol, request in requests.items()}
            build_library(requests, chosen, temporary / _KERNELS)
        (temporary / _GRAPH).write_text(print_graph(graph), encoding="utf-8")
        document = {
            "format": FORMAT,
            "version": VERSION,
            **_versions(),
            "target": target,
            "cpu": chosen.name if chosen else None,
            "model": {"path": str(model.path.resolve()), "fingerprint": model.file.fingerprint()},
            "overrides": dict(model.overrides),
            "kernels": kernels,
        }
        (temporary / _MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        _put_in_place(temporary, directory)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be written: {error.strerror}; give another place with -o") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return open_artifact(directory)


def _put_in_place(temporary: Path, directory: Path) -> None:
    """Rename ``temporary`` to ``directory``; an artifact that was there is removed after the new one has its name."""
    if not directory.exists():
        temporary.rename(directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    directory.rename(old / directory.name)
    try:
        temporary.rename(directory)
    except OSError:
        (old / directory.name).rename(directory)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def open_artifact(directory: str | Path) -> Artifact:
    """Read an artifact. Raises ArtifactError for one that is damaged, of another version, or for another CPU."""
    directory = Path(directory)
    path = directory / _MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{directory}: not an artifact (no {_MANIFEST}); make one with `aprgraph compile MODEL.gguf`")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ArtifactError(f"{path}: format {document['format']!r}, expected {FORMAT!r}")
        stale = [f"{key} {document.get(key)}, here {value}" for key, value in _versions().items() if document.get(key) != value]
        if document["version"] != VERSION:
            stale.insert(0, f"artifact format {document['version']}, here {VERSION}")
        if stale:
            raise ArtifactError(f"{directory}: compiled with other versions ({'; '.join(stale)}); compile the model again")
        graph = parse_graph((directory / _GRAPH).read_text(encoding="utf-8"))
        verify(graph)
        artifact = Artifact(
            directory=directory,
            target=str(document["target"]),
            cpu=document["cpu"],
            model_path=Path(document["model"]["path"]),
            fingerprint=str(document["model"]["fingerprint"]),
            overrides=dict(document["overrides"]),
            kernels=dict(document["kernels"]),
            graph=graph,
        )
    except (OSError, ValueError, KeyError, TypeError, GraphError) as error:
        raise ArtifactError(f"{directory}: damaged ({type(error).__name__}: {error}); compile the model again") from None
    if artifact.cpu is not None:
        check_runs_here(find_cpu(artifact.cpu), str(directory))
        if not artifact.library.is_file():
            raise ArtifactError(f"{directory}: damaged ({_KERNELS} is missing); compile the model again")
    return artifact


def _versions() -> dict[str, str]:
    return {"aprgraph": version("aprgraph"), "apache-tvm": version("apache-tvm")}

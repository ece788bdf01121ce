"""Artifacts: what compiling a model leaves on disk, beside which the programs of plans are cached.

    <stem>.<target>.aprg/
        artifact.json   versions, target, CPU, the model's path and fingerprint, the kernels
        graph.txt       the model's graph in its textual form
        kernels-*.so    the kernel library (not for the reference target), named by its digest: the system's loader takes a
                        library for one that it has loaded already if only the path is the same
        kernels-*.fatbin    for CUDA, the kernels themselves; the library then launches them
        programs/       VM bytecode, one file per tapped and pruned graph, made when first needed

Kernels are checked against a digest in artifact.json, and programs against one in their names: the system's loader and
TVM's crash on damaged code. It holds no weights. TVM is imported only where something has to be compiled.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.codegen.cpu.levels import check_runs_here, find_cpu
from aprgraph.codegen.cpu.library import build_library
from aprgraph.codegen.cuda.architectures import Architecture, parse_architectures
from aprgraph.codegen.cuda.compiler import compiler_name
from aprgraph.codegen.cuda.device_code import DeviceCode
from aprgraph.codegen.cuda.library import build_cuda_library
from aprgraph.codegen.kernels.base import KernelRequest, requests_of
from aprgraph.graph.arguments import ARCHITECTURES, CPU, MODEL, TARGET
from aprgraph.graph.errors import ArtifactError, GraphError
from aprgraph.graph.file_kind import kind_of_folder
from aprgraph.graph.held_graph import HeldGraph, require_known_ops
from aprgraph.graph.ir import Graph
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops.registry import is_own_formula
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify
from aprgraph.graph.whole_file import write_whole
from aprgraph.graph.words import listed

FORMAT = "aprgraph-artifact"
#: Raised whenever kernels, programs or the files above change in a way that older artifacts do not follow.
VERSION = 7
SUFFIX = ".aprg"
TARGETS = ("llvm", "cuda", "reference")

MANIFEST = "artifact.json"
_GRAPH, _PROGRAMS = "graph.txt", "programs"
_DIGEST = 24
#: What compiling and running put into an artifact, cut off or not.
_OWN_FILE = re.compile(r"artifact\.json|graph\.txt|kernels-[^/]+\.(so|fatbin)|programs/[^/]+\.(vm|tmp)|(.*/)?\.[^/]+")
#: What must be free where objects and the library go: LLVM ends the process when it cannot write. The largest need a few MB.
_ROOM = 64 << 20


@dataclass(frozen=True)
class Artifact:
    """A compiled model.

    ``cpu`` is there for the target llvm, ``device`` for cuda; the reference target has no kernels. ``sources`` is the digest
    of the files that made it, and ``unapplied`` what had to be said of the model's keys.
    """

    directory: Path
    target: str
    cpu: str | None
    model_path: Path
    fingerprint: str
    library_digest: str | None
    device: DeviceCode | None
    overrides: Mapping[str, Scalar | str]
    ignore: tuple[str, ...]
    kernels: Mapping[str, str]
    sources: str
    graph: Graph
    unapplied: tuple[str, ...] = ()

    @property
    def library(self) -> Path:
        """The kernel library. The reference target has none."""
        assert self.library_digest is not None
        return _library(self.directory, self.library_digest)

    @property
    def fat_binary(self) -> Path:
        """The kernels for the GPU. Other targets than cuda have none."""
        assert self.device is not None
        return _fat_binary(self.directory, self.device.digest)

    @property
    def architectures(self) -> list[str]:
        """The GPU architectures that the kernels are compiled for; later ones than the last run its PTX. None but for cuda."""
        return [str(architecture) for architecture in self.device.architectures] if self.device else []

    @property
    def target_name(self) -> str:
        """Target and CPU as traces name them."""
        return self.target if self.cpu is None else f"{self.target} {self.cpu}"

    @property
    def held(self) -> HeldGraph:
        """The graph, for where the model's family is not known."""
        return HeldGraph(self.graph, str(self.directory), self.overrides, self.unapplied)

    def load_model(self, path: Path | None = None) -> Model:
        """Open the model that this artifact was compiled from, at its recorded path, beside the artifact, or at ``path``.

        Raises ArtifactError if it is not there or has changed since.
        """
        candidates = [path] if path is not None else [self.model_path, self.directory.parent / self.model_path.name]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise ArtifactError(
                f"{self.directory}: its model {candidates[0]} is not there; give its place with ", MODEL, ", or compile again"
            )
        model = load_model(found, self.overrides, self.ignore, lambda _: self.held)
        if model.file.fingerprint() != self.fingerprint:
            raise ArtifactError(f"{self.directory}: {found} is not the file it was compiled from, or has changed since; compile it again")
        return model

    def program(self, graph: Graph) -> Path:
        """The program of ``graph`` (this artifact's graph after passes), compiled unless it is there already."""
        programs, key = self.directory / _PROGRAMS, digest(print_graph(graph).encode())
        with contextlib.suppress(OSError):
            for path in programs.glob(f"{key}-*.vm"):
                if path.stem == f"{key}-{digest(path.read_bytes())}":
                    return path
        program = _compile_program(graph, self.target)
        name = f"{key}-{digest(program)}.vm"
        with contextlib.suppress(OSError):  # a full disk, or an artifact that belongs to someone else
            return write_whole(programs / name, program)
        return _write_for_this_process(name, program)


def _library(directory: Path, digest: str) -> Path:
    return directory / f"kernels-{digest}.so"


def _fat_binary(directory: Path, digest: str) -> Path:
    return directory / f"kernels-{digest}.fatbin"


def digest(data: bytes) -> str:
    """What names a file by its content."""
    return hashlib.sha256(data).hexdigest()[:_DIGEST]


def _compile_program(graph: Graph, target: str) -> bytes:
    """Through a file in memory: TVM does not notice when a disk is full."""
    from aprgraph.codegen.program import build_program  # noqa: PLC0415 -- imports the compiler

    with os.fdopen(os.memfd_create("program"), "rb") as file:
        build_program(graph, Path(f"/proc/self/fd/{file.fileno()}"), target=target)
        return file.read()


def _write_for_this_process(name: str, data: bytes) -> Path:
    """Write a file that is gone when the process ends. Raises ArtifactError."""
    try:
        place = tempfile.mkdtemp(prefix="aprgraph-")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        return write_whole(Path(place) / name, data)
    except OSError as error:
        raise ArtifactError(
            f"{tempfile.gettempdir()}: cannot be written: {error.strerror}; the plan's program must go there, {len(data):,} bytes"
        ) from None


def default_directory(model: Path, target: str) -> Path:
    """``<stem>.<target>.aprg`` in the current folder."""
    return Path(f"{model.stem}.{target}{SUFFIX}")


def compile_model(
    model: Model, target: str = "llvm", directory: Path | None = None, cpu: str | None = None, architectures: Sequence[str] = ()
) -> Artifact:
    """Compile ``model`` into ``directory`` (default: ``<stem>.<target>.aprg`` here), replacing an artifact that is there.

    ``cpu`` is for the target llvm (default: this machine's), ``architectures`` for cuda (default: sm_80 and sm_90). The directory
    appears whole or not at all. Raises ArtifactError for an unknown target or a place that cannot be written, ToolchainError
    where a compiler or linker is missing, and ModelError for a model that cannot be built.
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
    directory = directory or default_directory(model.path, target)
    _check_replaceable(directory)
    graph = build_graph(model)
    chosen = find_cpu(cpu) if target == "llvm" else None
    temporary: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _check_room(directory.parent, Path(tempfile.gettempdir()))
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        temporary.chmod(0o755)
        kernels: dict[str, str] = {}
        library = device = None
        if target != "reference":
            requests = requests_of(compiled_graphs(graph))
            kernels = {symbol: request.text for symbol, request in requests.items()}
            new = _library(temporary, "new")
            if chosen is not None:
                build_library(requests, chosen, new)
            else:
                device = _build_for_cuda(requests, chosen_architectures, temporary)
            library = digest(new.read_bytes())
            new.rename(_library(temporary, library))
        text = print_graph(graph)
        (temporary / _GRAPH).write_text(text, encoding="utf-8")
        document = {
            "format": FORMAT,
            "version": VERSION,
            **versions(),
            "sources": sources(),
            "target": target,
            "cpu": chosen.name if chosen else None,
            "model": {"path": str(model.path.resolve()), "fingerprint": model.file.fingerprint()},
            "overrides": dict(model.overrides),
            "ignore": list(model.ignore),
            "unapplied": list(model.doubts_of_keys),
            "graph": digest(text.encode()),
            "library": library,
            "device": device.to_json() if device else None,
            "kernels": kernels,
        }
        (temporary / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        _put_in_place(temporary, directory)
    except OSError as error:
        raise ArtifactError.unwritable(directory, error) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return read_artifact(directory)


def _check_replaceable(directory: Path) -> None:
    """Raise ArtifactError for what is no artifact at ``directory``, or one with what is not of it: compiling would remove that."""
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
    compiler, new = compiler_name(), _fat_binary(directory, "new")
    functions = build_cuda_library(requests, architectures, _library(directory, "new"), new)
    name = digest(new.read_bytes())
    new.rename(_fat_binary(directory, name))
    return DeviceCode(name, tuple(architectures), compiler, functions)


def _check_room(*directories: Path) -> None:
    for directory in directories:
        free = shutil.disk_usage(directory).free
        if free < _ROOM:
            raise ArtifactError.at_place(
                f"{directory}: only {free:,} bytes are free there, expected {_ROOM:,} to compile in", "free some space"
            )


def _put_in_place(temporary: Path, directory: Path) -> None:
    """Rename ``temporary`` to ``directory``; an artifact that was there is removed after the new one has its name."""
    try:
        temporary.rename(directory)  # fails if one is there, perhaps since a moment ago and by another process
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
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
    """Read an artifact that is to run here. Raises ArtifactError as ``read_artifact`` does, and for one for another CPU."""
    artifact = read_artifact(directory)
    if artifact.cpu is not None:
        check_runs_here(find_cpu(artifact.cpu), str(directory))
    return artifact


def read_artifact(directory: str | Path) -> Artifact:
    """Read an artifact for any CPU. Raises ArtifactError for one that is damaged or of another version."""
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        kind = kind_of_folder(directory)
        known = "; make one with `aprgraph compile MODEL.gguf`" if kind is None else f" but {kind.what}; {kind.advice}"
        raise ArtifactError(f"{directory}: not an artifact (no {MANIFEST}){known}")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ArtifactError(f"{path}: format {document['format']!r}, expected {FORMAT!r}")
        stale = [f"{key} {document.get(key)}, here {value}" for key, value in versions().items() if document.get(key) != value]
        if document["version"] != VERSION:
            stale.insert(0, f"artifact format {document['version']}, here {VERSION}")
        if stale:
            raise ArtifactError(f"{directory}: compiled with other versions ({'; '.join(stale)}); compile the model again")
        text = (directory / _GRAPH).read_text(encoding="utf-8")
        if digest(text.encode()) != document["graph"]:
            raise ArtifactError(f"{directory / _GRAPH}: not the graph that was compiled; compile the model again")
        graph = parse_graph(text)
        require_known_ops(graph, str(directory), ArtifactError)
        verify(graph)
        library = document["library"]
        if library is not None:
            _check_formulas(graph, document["kernels"], directory)
        if library is not None and digest(_library(directory, str(library)).read_bytes()) != library:
            raise ArtifactError(f"{_library(directory, library)}: not the library that was compiled; compile the model again")
        device = None if document["device"] is None else DeviceCode.from_json(document["device"])
        if device is not None and digest(_fat_binary(directory, device.digest).read_bytes()) != device.digest:
            raise ArtifactError(f"{_fat_binary(directory, device.digest)}: not the kernels that were compiled; compile the model again")
        return Artifact(
            directory=directory,
            target=str(document["target"]),
            cpu=None if document["cpu"] is None else find_cpu(document["cpu"]).name,
            model_path=Path(document["model"]["path"]),
            fingerprint=str(document["model"]["fingerprint"]),
            library_digest=library,
            device=device,
            overrides=dict(document["overrides"]),
            ignore=tuple(map(str, document.get("ignore", ()))),  # absent in artifacts that are older
            kernels=dict(document["kernels"]),
            sources=bytes.fromhex(document["sources"]).hex(),
            graph=graph,
            unapplied=tuple(map(str, document.get("unapplied", ()))),
        )
    except OSError as error:
        raise ArtifactError(f"{error.filename}: cannot be read: {error.strerror}; compile the model again") from None
    except KeyError as error:
        raise ArtifactError(f"{directory}: damaged ({error} is missing in {MANIFEST}); compile the model again") from None
    except (ValueError, TypeError, AttributeError, RecursionError, GraphError) as error:
        raise ArtifactError(f"{directory}: damaged ({error}); compile the model again") from None


def _check_formulas(graph: Graph, kernels: Mapping[str, str], directory: Path) -> None:
    """Raise ArtifactError if a user's file gives an op another formula than the kernels ``kernels``, by symbol, were made of."""
    if not any(is_own_formula(node.op) for node in graph):
        return
    for symbol, request in requests_of(compiled_graphs(graph)).items():
        if is_own_formula(request.op) and symbol not in kernels:
            raise ArtifactError(f"{directory}: compiled with another formula of the op {request.op!r}; compile the model again")


def versions() -> dict[str, str]:
    """Of what an artifact depends on."""
    return {"aprgraph": version("aprgraph"), "apache-tvm": version("apache-tvm")}


def sources() -> str:
    """A digest of the files that make graphs, kernels and programs: while these are developed, versions do not tell."""
    return sources_digest("aprgraph.codegen.artifact")

"""Artifacts: what compiling a model leaves on disk, beside which the programs of plans are cached.

    <stem>.<target>.aprg/, or <stem>.<target>.<arithmetic>.aprg/
        artifact.json   versions, target, CPU, the model's path and fingerprint, the kernels
        graph.txt       the model's graph in its textual form
        kernels-*.so    the kernel library (not for the reference target), named by its digest: the system's loader takes a
                        library for one that it has loaded already if only the path is the same
        kernels-*.fatbin    for CUDA, the kernels themselves; the library then launches them
        programs/       VM bytecode, one file per tapped and pruned graph, made when first needed
        trusted/        who vouches for the manifest (trust/artifacts.py)

Whoever can write here could put code here, so none is loaded that this user's key does not vouch for: kernels have their
digests in artifact.json, and that has a message authentication code; programs have one each, in their names. Code is read
once, and what was verified in memory is what is loaded. It holds no weights. TVM's Python package is imported only where a
kernel has to be compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aprgraph.codegen.artifact_form import ARTIFACT_FILE, FORMAT, VERSION
from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.codegen.cpu.levels import check_machine, check_runs_here, find_cpu
from aprgraph.codegen.cuda.device_code import DeviceCode
from aprgraph.codegen.file_in_memory import file_in_memory
from aprgraph.codegen.kernels.base import requests_of
from aprgraph.codegen.trust.artifacts import require_trust
from aprgraph.codegen.trust.key import user_key
from aprgraph.codegen.versions import version
from aprgraph.graph.arguments import COMPILE, MODEL
from aprgraph.graph.arithmetics import PLAIN, parse_arithmetic
from aprgraph.graph.errors import ArtifactError, GraphError, shown
from aprgraph.graph.held_graph import HeldGraph, require_known_ops
from aprgraph.graph.input_file import read_input, read_input_text
from aprgraph.graph.ir import Graph
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.message import message_from_json
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.near_names import did_you_mean_path
from aprgraph.graph.ops.registry import is_own_formula
from aprgraph.graph.passes.apply_arithmetic import ApplyArithmetic
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.sources.checkpoint import is_checkpoint
from aprgraph.graph.sources.path_kind import kind_of_path
from aprgraph.graph.text import MOST_GRAPH_BYTES, parse_graph, print_graph
from aprgraph.graph.verify import verify
from aprgraph.graph.whole_file import write_whole

SUFFIX = ".aprg"

MANIFEST = "artifact.json"
GRAPH = "graph.txt"
_PROGRAMS = "programs"
#: More than the graph, the library or the GPU's code of any model has; and characters of a version in a message.
_MOST_CODE_BYTES, _MOST_VERSION = 1 << 30, 64
#: Hex digits of a digest that names a file. What is verified is compared with all 64.
_NAME_DIGITS = 24


@dataclass(frozen=True)
class Artifact:
    """A compiled model.

    ``cpu`` is there for the target llvm, ``device`` for cuda; the reference target has no kernels. ``sources`` is the
    digest of the files that made it, and ``unapplied`` what had to be said of the model's keys. ``graph`` is the model's own;
    the kernels are those of it in the arithmetic ``arithmetic`` (graph/arithmetics.py), which runs are in unless they name another.
    ``identity`` is the digest of the manifest. ``code`` is what the files of machine code held when they were verified against that,
    by their digests.
    """

    directory: Path
    identity: str
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
    arithmetic: str = PLAIN
    code: Mapping[str, MachineCode] = field(default_factory=dict, repr=False, compare=False)

    @property
    def graph_in_arithmetic(self) -> Graph:
        """The graph as its kernels compute it."""
        return ApplyArithmetic(self.arithmetic)(self.graph)

    @property
    def kernel_code(self) -> MachineCode:
        """The kernel library, to be loaded. Raises ArtifactError unless this user compiled or trusts the artifact."""
        assert self.library_digest is not None
        return self._trusted(self.library_digest)

    @property
    def device_code(self) -> MachineCode:
        """The kernels for the GPU, to be loaded. Raises ArtifactError as ``kernel_code`` does."""
        assert self.device is not None
        return self._trusted(self.device.digest)

    def _trusted(self, digest: str) -> MachineCode:
        require_trust(self.directory, self.identity)
        return self.code[digest]

    @property
    def library(self) -> Path:
        """The kernel library. The reference target has none."""
        assert self.library_digest is not None
        return library_in(self.directory, self.library_digest)

    @property
    def fat_binary(self) -> Path:
        """The kernels for the GPU. Other targets than cuda have none."""
        assert self.device is not None
        return fat_binary_in(self.directory, self.device.digest)

    @property
    def architectures(self) -> list[str]:
        """The GPU architectures that the kernels are for; later ones run the PTX of the last. None but for cuda."""
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
        """Open the model that this was compiled from: at its recorded path, beside the artifact, or at ``path``.

        Raises ArtifactError if it is not there or has changed since.
        """
        candidates = [path] if path is not None else [self.model_path, self.directory.parent / self.model_path.name]
        found = next((candidate for candidate in candidates if candidate.is_file() or is_checkpoint(candidate)), None)
        if found is None:
            raise ArtifactError(
                f"{self.directory}: its model {candidates[0]} is not there; give its place with ", MODEL, ", or compile again"
            )
        model = load_model(found, self.overrides, self.ignore, lambda _: self.held)
        if model.file.fingerprint() != self.fingerprint:
            raise ArtifactError(f"{self.directory}: {found} is not the file it was compiled from, or has changed since; compile it again")
        return model

    def program(self, graph: Graph) -> bytes:
        """The VM bytecode of ``graph`` (this artifact's graph after passes), compiled unless this user did that already.

        It has the artifact's identity in its code: one of another version may call kernels in another way.
        """
        programs, text, key = self.directory / _PROGRAMS, print_graph(graph).encode(), user_key()
        name = digest(text)[:_NAME_DIGITS]
        with contextlib.suppress(OSError):
            for path in programs.glob(f"{name}-*.vm"):
                found = read_input(path, _MOST_CODE_BYTES)
                if key.made(path.stem.removeprefix(f"{name}-"), "program", self.identity.encode(), text, found):
                    return found
        program = _compile_program(graph, self.target)
        code = key.code("program", self.identity.encode(), text, program)
        with contextlib.suppress(OSError):  # a full disk, or an artifact that belongs to someone else
            write_whole(programs / f"{name}-{code}.vm", program)
        return program


def library_in(directory: Path, digest: str) -> Path:
    """The path of the kernel library of an artifact."""
    return directory / f"kernels-{digest[:_NAME_DIGITS]}.so"


def fat_binary_in(directory: Path, digest: str) -> Path:
    """The path of the kernels for the GPU of an artifact."""
    return directory / f"kernels-{digest[:_NAME_DIGITS]}.fatbin"


def digest(data: bytes) -> str:
    """What tells a file's content: SHA-256, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _compile_program(graph: Graph, target: str) -> bytes:
    """The program's bytecode. Raises ToolchainError."""
    from aprgraph.codegen.program import build_program  # noqa: PLC0415 -- most runs find theirs compiled

    return file_in_memory(lambda name: build_program(graph, Path(name), target=target))


def open_artifact(directory: str | Path, *, elsewhere: bool = False) -> Artifact:
    """Read an artifact that is to run here, or ``elsewhere``: then its CPU may be another.

    Raises ArtifactError as ``read_artifact`` does, for one for another CPU, and for one that this user did not compile.
    """
    artifact = read_artifact(directory)
    if artifact.library_digest is not None:
        require_trust(artifact.directory, artifact.identity)
    if artifact.cpu is not None and not elsewhere:
        check_runs_here(find_cpu(artifact.cpu), str(directory))
    if artifact.library_digest is not None and not elsewhere:
        # Whatever the manifest says: of another machine the system's loader only says that the file is not there.
        check_machine(artifact.code[artifact.library_digest].machine, str(directory))
    return artifact


def check_identity(artifact: Artifact, expected: str) -> None:
    """Raise ArtifactError for an artifact of another identity: its SHA-256 digest, 64 hex digits, perhaps behind "sha256:"."""
    if expected.lower().removeprefix("sha256:") != artifact.identity:
        raise ArtifactError(f"{artifact.directory}: its identity is {artifact.identity}, expected {shown(expected)}; do not trust it")


def read_artifact(directory: str | Path) -> Artifact:
    """Read an artifact for any CPU. Raises ArtifactError for one that is damaged or of another version."""
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        make = COMPILE.given("MODEL.gguf", "aprgraph.load('MODEL.gguf').compile()")
        if not os.path.lexists(directory):
            meant = did_you_mean_path(directory)
            raise ArtifactError(f"{directory}: not there{meant}; expected the directory of an artifact, which `", make, "` makes")
        kind = kind_of_path(directory)
        what = "" if kind is None else f" but {kind.what}"
        advice = ("make one with `", make, "`") if kind is None or kind.name == "other-folder" else (kind.advice,)
        raise ArtifactError(f"{directory}: not an artifact (no {MANIFEST}){what}; ", *advice)
    try:
        manifest = ARTIFACT_FILE.read_bytes(path)
        document = ARTIFACT_FILE.parse(manifest, path)
        _require_versions(document, directory)
        ARTIFACT_FILE.require_form(document, path)
        _require_parts(document, path)
        text = read_input_text(directory / GRAPH, MOST_GRAPH_BYTES)
        if digest(text.encode()) != document["graph"]:
            raise ArtifactError(f"{directory / GRAPH}: not the graph that was compiled; compile the model again")
        graph = parse_graph(text)
        require_known_ops(graph, str(directory), ArtifactError)
        verify(graph)
        arithmetic = parse_arithmetic(document.get("arithmetic", PLAIN)).text  # absent in artifacts that are older
        library = document["library"]
        if library is not None:
            _check_formulas(ApplyArithmetic(arithmetic)(graph), document["target"], document["kernels"], directory)
        device = None if document["device"] is None else DeviceCode.from_json(document["device"])
        code = {}
        if library is not None:
            code[library] = _read_code(library_in(directory, library), library, "library that was")
        if device is not None:
            code[device.digest] = _read_code(fat_binary_in(directory, device.digest), device.digest, "kernels that were")
        return Artifact(
            directory=directory,
            identity=digest(manifest),
            target=document["target"],
            cpu=None if document["cpu"] is None else find_cpu(document["cpu"]).name,
            model_path=Path(document["model"]["path"]),
            fingerprint=document["model"]["fingerprint"],
            library_digest=library,
            device=device,
            overrides=dict(document["overrides"]),
            ignore=tuple(document.get("ignore", ())),  # absent in artifacts that are older
            kernels=dict(document["kernels"]),
            sources=document["sources"],
            graph=graph,
            unapplied=tuple(map(message_from_json, document.get("unapplied", ()))),
            arithmetic=arithmetic,
            code=code,
        )
    except OSError as error:
        raise ArtifactError(f"{error.filename}: cannot be read: {error.strerror}; compile the model again") from None
    except GraphError as error:
        raise ArtifactError(f"{directory}: damaged ({error}); compile the model again") from None


def _require_versions(document: Mapping[str, Any], directory: Path) -> None:
    """Raise ArtifactError for what is no artifact's manifest, or was made by other versions, whose form may be another."""
    if document.get("format") != FORMAT:
        raise ArtifactError(f"{directory / MANIFEST}: format {shown(document.get('format'))}, expected {FORMAT!r}; compile the model again")
    stale = [f"{key} {_word(document.get(key))}, here {value}" for key, value in versions().items() if document.get(key) != value]
    if document.get("version") != VERSION:
        stale.insert(0, f"artifact format {_word(document.get('version'))}, here {VERSION}")
    if stale:
        raise ArtifactError(f"{directory}: compiled with other versions ({'; '.join(stale)}); compile the model again")


def _word(version: object) -> str:
    return version if isinstance(version, str) and len(version) <= _MOST_VERSION else shown(version)


def _require_parts(document: Mapping[str, Any], path: Path) -> None:
    """Raise ArtifactError unless there is what the target needs, and nothing of another's."""
    target = document["target"]
    for part, needed in (("library", target != "reference"), ("device", target == "cuda"), ("cpu", target == "llvm")):
        if (document[part] is not None) != needed:
            expected = "null" if not needed else "what it names"
            found = "null" if needed else "there"
            raise ArtifactError(f"{path}: {part} is {found}, expected {expected} for the target {target}; compile the model again")


def _read_code(place: Path, expected: str, what: str) -> MachineCode:
    """The file ``place``, whose content has the digest ``expected``. Raises ArtifactError or OSError."""
    data = read_input(place, _MOST_CODE_BYTES)
    if digest(data) != expected:
        raise ArtifactError(f"{place}: not the {what} compiled; compile the model again")
    return MachineCode(data, place)


def _check_formulas(graph: Graph, target: str, kernels: Mapping[str, str], directory: Path) -> None:
    """Raise ArtifactError if an op has another formula now than ``kernels``, by symbol, were made of."""
    if not any(is_own_formula(node.op) for node in graph):
        return
    for symbol, request in requests_of(compiled_graphs(graph, target)).items():
        if is_own_formula(request.op) and symbol not in kernels:
            raise ArtifactError(f"{directory}: compiled with another formula of the op {request.op!r}; compile the model again")


def versions() -> dict[str, str]:
    """Of what an artifact depends on."""
    return {"aprgraph": version("aprgraph"), "apache-tvm": version("apache-tvm")}


def sources() -> str:
    """A digest of the files that make graphs, kernels and programs: while these are developed, versions do not tell."""
    return sources_digest("aprgraph.codegen.compile_model")

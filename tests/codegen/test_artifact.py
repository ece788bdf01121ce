"""Artifacts on disk: what is in them, what is refused, and what is left when something fails."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.api import CompiledModel, load, open_artifact
from aprgraph.codegen import artifact
from aprgraph.codegen import compile_model as compiling
from aprgraph.codegen.artifact import Artifact, digest, library_in, read_artifact
from aprgraph.codegen.artifact_form import VERSION
from aprgraph.codegen.compile_model import compile_model, default_directory
from aprgraph.codegen.cpu import levels
from aprgraph.codegen.trust.artifacts import TRUSTED, vouch
from aprgraph.graph import whole_folder
from aprgraph.graph.errors import AprgraphError, ArtifactError, ModelError, ModelFileError, ToolchainError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from tests.support.cli import files_under, run_python
from tests.support.compiled import compiled, shared_model

TOKENS = [5, 200, 17]


@pytest.fixture(scope="module")
def model_path(tiny_model: Callable[..., Path]) -> Path:
    return shared_model(tiny_model)


@pytest.fixture(scope="module")
def tiny(model_path: Path) -> CompiledModel:
    return compiled(model_path)


@pytest.fixture
def copy(tiny: CompiledModel, tmp_path: Path) -> Path:
    """An artifact that a test may spoil."""
    shutil.copytree(tiny.artifact.directory, tmp_path / "m.llvm.aprg")
    return tmp_path / "m.llvm.aprg"


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "artifact.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    vouch(directory, digest(path.read_bytes()))


# -- what is in it ------------------------------------------------------------------------------------------------------


def test_contents(tiny: CompiledModel, model_path: Path) -> None:
    directory = tiny.artifact.directory
    assert {path.name for path in directory.iterdir()} - {"programs"} == {
        "artifact.json", "graph.txt", TRUSTED, tiny.artifact.library.name
    }  # fmt: skip
    document = json.loads((directory / "artifact.json").read_text())
    assert (document["format"], document["target"], document["cpu"]) == ("aprgraph-artifact", "llvm", levels.native_cpu().name)
    assert document["model"] == {"path": str(model_path.resolve()), "fingerprint": load_model(model_path).file.fingerprint()}
    assert set(document["kernels"]) == set(tiny.artifact.kernels)
    assert tiny.artifact.graph == build_graph(load_model(model_path))


def test_no_weights_are_in_it(tiny: CompiledModel) -> None:
    """No 64 bytes of any matrix occur in any file of the artifact."""
    whole = b"".join(files_under(tiny.artifact.directory).values())
    for info in tiny.model.file.tensors.values():
        if len(info.dims) == 2:
            assert tiny.model.file.tensor_bytes(info).tobytes()[512:576] not in whole, info.name


def test_the_reference_target_has_no_kernels(model_path: Path, tmp_path: Path) -> None:
    found = compile_model(load_model(model_path), "reference", tmp_path / "r.aprg")
    assert sorted(files_under(tmp_path / "r.aprg")) == ["artifact.json", "graph.txt"]
    assert (found.cpu, dict(found.kernels), found.target_name) == (None, {}, "reference")


def test_overrides_travel_with_it(model_path: Path, tmp_path: Path) -> None:
    overrides = {"llama.rope.freq_base": 500.0, "tokenizer.ggml.model": "x", "llama.context_length": 8}
    compile_model(load_model(model_path, overrides), "reference", tmp_path / "r.aprg")
    opened = open_artifact(tmp_path / "r.aprg")
    assert opened.model.overrides == overrides
    assert opened.model.family.context == 8
    assert "500.0" in (tmp_path / "r.aprg" / "graph.txt").read_text()


def test_default_place(model_path: Path) -> None:
    assert default_directory(Path("/models/a.b.gguf").stem, "llvm") == Path("a.b.llvm.aprg")


# -- in another process -------------------------------------------------------------------------------------------------

_RUN = """
import sys
from aprgraph import open_artifact
model = open_artifact(sys.argv[1], sys.argv[2])
model.run("ffn_up", tokens=eval(sys.argv[3]), directory="t")
print("tvm" in sys.modules)
from tvm import relax
print(type(relax.ExecBuilder()).__name__)
"""


def test_another_process_opens_it_and_no_plan_needs_the_compilers_python_side(
    tiny: CompiledModel, model_path: Path, copy: Path, tmp_path: Path
) -> None:
    """Its import takes a second. It can come later: TVM's builder of executables is the one that was used without it."""
    shutil.rmtree(copy / "programs", ignore_errors=True)
    tiny.run("ffn_up", tokens=TOKENS, directory=tmp_path / "here")
    first = run_python(_RUN, copy, model_path, TOKENS, cwd=tmp_path)
    assert (first.err, first.out.split()) == ("", ["False", "ExecBuilder"])
    assert files_under(tmp_path / "t") == files_under(tmp_path / "here")
    (program,) = (copy / "programs").iterdir()
    written = program.stat().st_mtime_ns
    second = run_python(_RUN, copy, model_path, TOKENS, cwd=tmp_path)
    assert (second.err, second.out.split()) == ("", ["False", "ExecBuilder"])
    assert files_under(tmp_path / "t") == files_under(tmp_path / "here")
    assert [(path, path.stat().st_mtime_ns) for path in (copy / "programs").iterdir()] == [(program, written)]


_PLANS = """
import sys
from aprgraph import open_artifact
model = open_artifact(sys.argv[1], sys.argv[2])
model.logits([1])
model.run("ffn_up,ffn_norm", tokens=[1, 2], directory="t")
"""


def test_a_process_may_compile_after_it_has_run(copy: Path, model_path: Path, tmp_path: Path) -> None:
    """From Python, plans follow each other: the first, seen before, must not shut the compiler out."""
    open_artifact(copy, model_path).logits([1])
    result = run_python(_PLANS, copy, model_path, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert len(files_under(tmp_path / "t")) == 3


# -- programs -----------------------------------------------------------------------------------------------------------


def test_a_damaged_program_is_made_again(tiny: CompiledModel, copy: Path, model_path: Path) -> None:
    expected = tiny.logits(TOKENS)
    shutil.rmtree(copy / "programs", ignore_errors=True)
    model = open_artifact(copy, model_path)
    model.logits(TOKENS)
    (program,) = (copy / "programs").iterdir()
    whole = program.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole[: len(whole) // 2] + b"\xff" * 8 + whole[len(whole) // 2 + 8 :]):
        program.write_bytes(damaged)
        assert model.logits(TOKENS).tobytes() == expected.tobytes()
        assert program.read_bytes() == whole


def _cannot_write(*_: object, **__: object) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_an_artifact_that_cannot_be_written_runs(
    tiny: CompiledModel, copy: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program stays in memory: there is no other place for it that needs not be trusted."""
    expected = tiny.logits(TOKENS)
    shutil.rmtree(copy / "programs", ignore_errors=True)
    before = files_under(copy)
    monkeypatch.setattr(artifact, "write_whole", _cannot_write)
    assert open_artifact(copy, model_path).logits(TOKENS).tobytes() == expected.tobytes()
    assert files_under(copy) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_artifact_runs_and_leaves_nothing_behind(tiny: CompiledModel, copy: Path, model_path: Path, tmp_path: Path) -> None:
    """As above, for real, and in a process that ends."""
    shutil.rmtree(copy / "programs", ignore_errors=True)
    before = files_under(copy)
    copy.chmod(0o555)
    code = "import sys; from aprgraph import open_artifact; print(open_artifact(sys.argv[1], sys.argv[2]).logits([5, 200, 17]).argmax())"
    (tmp_path / "temporary").mkdir()
    result = run_python(code, copy, model_path, cwd=tmp_path, env={"TMPDIR": str(tmp_path / "temporary")})
    copy.chmod(0o755)
    assert (result.code, result.out, result.err) == (0, f"{tiny.logits(TOKENS).argmax()}\n", "")
    assert files_under(copy) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_full_disk_does_not_spoil_the_artifact(
    tiny: CompiledModel, copy: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that was cut would be found, and fail, ever after."""
    shutil.rmtree(copy / "programs", ignore_errors=True)
    write_bytes, cut = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        cut.append(write_bytes(self, data[: len(data) // 2]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert open_artifact(copy, model_path).logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()
    assert len(cut) == 1
    assert files_under(copy / "programs") == {}
    assert open_artifact(copy, model_path).logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()


# -- the model ----------------------------------------------------------------------------------------------------------


def test_a_model_that_changed(copy: Path, model_path: Path, tmp_path: Path) -> None:
    data = bytearray(model_path.read_bytes())
    data[-100] ^= 1
    (tmp_path / model_path.name).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"is not the file it was compiled from, or has changed since; compile it again"):
        open_artifact(copy, tmp_path / model_path.name)


def test_a_model_that_moved(copy: Path, model_path: Path, tmp_path: Path) -> None:
    edit(copy, lambda document: document["model"].update(path=str(tmp_path / "old" / "m.gguf")))
    with pytest.raises(ArtifactError, match=rf"its model {tmp_path}/old/m\.gguf is not there; give its place with model="):
        open_artifact(copy)
    assert open_artifact(copy, model_path).model.path == model_path
    with pytest.raises(ArtifactError, match=r"its model .*/elsewhere\.gguf is not there"):
        open_artifact(copy, tmp_path / "elsewhere.gguf")
    shutil.copyfile(model_path, copy.parent / "m.gguf")  # beside the artifact, as both are moved together
    assert open_artifact(copy).model.path == copy.parent / "m.gguf"


def test_what_is_no_model(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        open_artifact(copy, tmp_path / "m.gguf")


# -- damage -------------------------------------------------------------------------------------------------------------


def test_other_versions(copy: Path) -> None:
    for change, message in (
        ({"version": 99}, f"artifact format 99, here {VERSION}"),
        ({"aprgraph": "0.0.1"}, "aprgraph 0.0.1, here "),
        ({"apache-tvm": "9.9"}, "apache-tvm 9.9, here "),
        ({"apache-tvm": None}, "apache-tvm None, here "),
    ):
        original = (copy / "artifact.json").read_text()
        edit(copy, lambda document, change=change: document.update(change))
        with pytest.raises(ArtifactError, match=rf"compiled with other versions \({message}.*\); compile the model again"):
            read_artifact(copy)
        (copy / "artifact.json").write_text(original)


def test_another_cpu(copy: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(copy, lambda document: document.update(cpu="x86-64-v4"))
    monkeypatch.setattr(levels, "machine_flags", lambda: frozenset(levels.CPUS["x86-64-v3"].flags))
    with pytest.raises(ArtifactError, match="built for x86-64-v4, but this machine lacks avx512f.*; compile it here again"):
        open_artifact(copy, model_path)
    assert read_artifact(copy).cpu == "x86-64-v4"  # to look at, it is sound


def test_a_library_for_another_machine(copy: Path, model_path: Path) -> None:
    """Although the manifest says otherwise, as that of an artifact for CUDA says nothing of the machine."""
    other = b"\x7fELF\x02\x01" + bytes(12) + (183).to_bytes(2, "little") + bytes(44)
    edit(copy, lambda document: document.update(library=digest(other)))
    library_in(copy, digest(other)).write_bytes(other)
    with pytest.raises(ArtifactError, match="built for aarch64, but this machine is x86_64; run it on such a machine with"):
        open_artifact(copy, model_path)


def test_compiling_for_another_cpu(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be run here, and need not be."""
    monkeypatch.setattr(levels, "machine_flags", lambda: frozenset(levels.CPUS["x86-64-v2"].flags))
    monkeypatch.setattr(compiling, "build_library", lambda _requests, chosen, path: path.write_text(chosen.name))
    found = load(model_path).compile(directory=tmp_path / "m.aprg", cpu="x86-64-v4")
    assert (found.artifact.cpu, found.artifact.library.read_text()) == ("x86-64-v4", "x86-64-v4")


@pytest.mark.parametrize("pattern", ["artifact.json", "graph.txt", "kernels-*.so"])
def test_damaged_files(copy: Path, pattern: str) -> None:
    """A cut library would otherwise end the process when it is loaded."""
    (name,) = (path.name for path in copy.glob(pattern))
    whole = (copy / name).read_bytes()
    for damaged in (b"", whole[:1], whole[:100], whole[: len(whole) // 2], whole[:-9], b"\xff" + whole[1:]):
        (copy / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=rf"^{re.escape(str(copy))}.*compile the model again$") as caught:
            read_artifact(copy)
        assert "\n" not in str(caught.value)


def test_an_edited_graph(copy: Path) -> None:
    """It may name kernels that the library does not have."""
    text = (copy / "graph.txt").read_text()
    (copy / "graph.txt").write_text(text.replace("base = ", "base = 1"))
    with pytest.raises(ArtifactError, match=r"graph\.txt: not the graph that was compiled; compile the model again"):
        read_artifact(copy)


@pytest.mark.parametrize("pattern", ["graph.txt", "kernels-*.so"])
def test_missing_files(copy: Path, pattern: str) -> None:
    (name,) = (path.name for path in copy.glob(pattern))
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: cannot be read: No such file or directory; compile the model again"):
        read_artifact(copy)


def test_another_model_compiled_into_the_same_place_in_one_process(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The system's loader would give the first library again if only the path were looked at."""
    place = tmp_path / "m.aprg"
    for hidden in (64, 128):
        found = load(tiny_model(layers=1, hidden=hidden)).compile(directory=place)
        assert np.isfinite(found.logits([1, 2, 3])).all()


def test_manifests_that_are_none(copy: Path) -> None:
    path = copy / "artifact.json"
    original = json.loads(path.read_text())
    spoiled: list[Any] = [None, [], 7, "x", {}, [original]]
    spoiled += [{key: value for key, value in original.items() if key != missing} for missing in original]
    wrong: list[Any] = [None, 7, "x", [], {}, [[]], {"path": None, "fingerprint": 3}, "[" * 10_000]
    spoiled += [{**original, key: value} for key in original for value in wrong if value != original[key]]
    refused = 0
    for document in spoiled:
        path.write_text(json.dumps(document))
        try:
            read_artifact(copy)
        except ArtifactError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > len(spoiled) * 0.8
    path.write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="not a whole artifact manifest"):
        read_artifact(copy)


def test_what_is_no_artifact(tmp_path: Path) -> None:
    make = r"`aprgraph\.load\('MODEL\.gguf'\)\.compile\(\)`"
    with pytest.raises(ArtifactError, match=rf"not an artifact \(no artifact\.json\) but an empty folder; make one with {make}$"):
        read_artifact(tmp_path)
    with pytest.raises(ArtifactError, match=rf"no: not there; expected the directory of an artifact, which {make} makes$"):
        read_artifact(tmp_path / "no")


# -- compiling into a place ---------------------------------------------------------------------------------------------


def compile_reference(model: Path, place: Path) -> Artifact:
    return compile_model(load_model(model), "reference", place)


def test_an_existing_place_that_is_no_artifact_is_left_alone(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name in ("mine", "file", "empty"):
        with pytest.raises(ArtifactError, match="is there, and is no artifact; remove it, or give another place$"):
            compile_reference(model_path, tmp_path / name)
    assert files_under(tmp_path) == {"mine/thesis.txt": b"text", "file": b"text"}
    assert (tmp_path / "empty").is_dir()


def test_an_older_artifact_is_replaced(tiny_model: Callable[..., Path], model_path: Path, tmp_path: Path) -> None:
    old = compile_reference(tiny_model(), tmp_path / "m.aprg")
    (tmp_path / "m.aprg" / "programs").mkdir()
    (tmp_path / "m.aprg" / "programs" / "old.vm").write_text("old")
    new = compile_reference(model_path, tmp_path / "m.aprg")
    assert new.fingerprint != old.fingerprint
    assert sorted(files_under(tmp_path)) == ["m.aprg/artifact.json", "m.aprg/graph.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.aprg"]


def test_two_processes_that_compile_into_one_place(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is done between our look and our rename."""
    put_in_place = whole_folder.put_in_place

    def late(temporary: str, place: str) -> None:
        monkeypatch.setattr(whole_folder, "put_in_place", put_in_place)
        compile_reference(model_path, Path(place))
        put_in_place(temporary, place)

    monkeypatch.setattr(whole_folder, "put_in_place", late)
    assert compile_reference(model_path, tmp_path / "m.aprg").target == "reference"
    assert [path.name for path in tmp_path.iterdir()] == ["m.aprg"]


def test_a_new_artifact_that_cannot_be_put_in_place_leaves_the_old_one(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_reference(model_path, tmp_path / "m.aprg")
    before = files_under(tmp_path)
    monkeypatch.setattr(whole_folder, "_renameat2", lambda: lambda *_: ctypes.set_errno(errno.EIO) or -1)
    with pytest.raises(ArtifactError, match="cannot be written: Input/output error"):
        compile_reference(model_path, tmp_path / "m.aprg")
    assert files_under(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.aprg"]


def test_a_link_that_fails_leaves_nothing(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_linker(_requests: object, _cpu: object, path: Path) -> None:
        path.write_text("half a library")
        raise ToolchainError("no linker")

    monkeypatch.setattr(compiling, "build_library", no_linker)
    for place in (tmp_path / "m.aprg", tmp_path / "new" / "m.aprg"):
        with pytest.raises(ToolchainError, match="no linker"):
            load(model_path).compile(directory=place)
    assert files_under(tmp_path) == {}


def test_a_machine_without_a_linker(model_path: Path, tmp_path: Path) -> None:
    """For real: nothing on the PATH. It is said before the seconds that compiling takes."""
    (tmp_path / "bin").mkdir()
    code = "import sys; sys.modules['ziglang'] = None; from aprgraph.cli import main; main()"
    env = {"PATH": str(tmp_path / "bin"), "TMPDIR": str(tmp_path)}
    result = run_python(code, "compile", model_path, "-o", tmp_path / "m.aprg", cwd=tmp_path, env=env)
    assert result.code == 2
    assert result.err.startswith("error: no linker: ")
    assert len(result.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_disk_without_room(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before LLVM is asked: it would end the process."""
    monkeypatch.setattr(compiling.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(ArtifactError, match=r"only 4,096 bytes are free there, expected 67,108,864 to compile in; free some space"):
        load(model_path).compile(directory=tmp_path / "m.aprg")
    assert files_under(tmp_path) == {}


_RUN_THEN_COMPILE = """
import sys
from aprgraph import load, open_artifact
model = open_artifact(sys.argv[1], sys.argv[2])
before = model.logits(TOKENS).tolist()
loaded = "tvm" in sys.modules
again = load(sys.argv[2]).compile(directory="again.aprg")  # imports TVM's package after its runtime
print(loaded, again.logits(TOKENS).tolist() == before == model.logits(TOKENS).tolist())
"""


def test_the_compiler_can_be_loaded_after_tvms_runtime_alone(tiny: CompiledModel, model_path: Path, copy: Path, tmp_path: Path) -> None:
    tiny.logits(TOKENS)  # the program is kept beside the artifact, so that running needs no compiler
    shutil.copytree(tiny.artifact.directory / "programs", copy / "programs", dirs_exist_ok=True)
    script = _RUN_THEN_COMPILE.replace("TOKENS", str(list(TOKENS)))
    result = run_python(script, copy, model_path, cwd=tmp_path)
    assert (result.err, result.out.split()) == ("", ["False", "True"])


def test_an_artifact_with_somebodys_files_is_not_replaced(model_path: Path, tmp_path: Path) -> None:
    """Compiling again would remove them."""
    place = tmp_path / "m.aprg"
    compile_reference(model_path, place)
    (place / "programs").mkdir()
    for name in ("programs/1-2.vm", ".DS_Store", "programs/.1-2.vm.7.tmp"):
        (place / name).write_text("not of a person")
    compile_reference(model_path, place)
    (place / "trace").mkdir()
    (place / "trace/notes.txt").write_text("mine")
    before = files_under(place)
    with pytest.raises(ArtifactError, match=r"is an artifact that holds what is not of it \(trace/notes\.txt\); move that away, or"):
        compile_reference(model_path, place)
    assert files_under(place) == before


@pytest.mark.parametrize("place", ["file/m.aprg", "x" * 300, "file/below/m.aprg"])
def test_places_that_cannot_be_made(model_path: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ArtifactError, match="cannot be written: .*; give another place$"):
        compile_reference(model_path, tmp_path / place)
    assert files_under(tmp_path) == {"file": b"kept"}


def test_what_cannot_be_compiled(model_path: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[AprgraphError], str]] = [
        ({"target": "vulkan"}, ArtifactError, "unknown target 'vulkan'; expected one of llvm, cuda, reference"),
        ({"cpu": "i386"}, ArtifactError, "unknown CPU 'i386'; expected one of x86-64-v2"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            load(model_path).compile(directory=tmp_path / "m.aprg", **options)
    with pytest.raises(ModelError, match="expected"):
        load(model_path, {"llama.embedding_length": 128}).compile(directory=tmp_path / "m.aprg")
    assert files_under(tmp_path) == {}

"""Code that strangers made is not loaded: artifacts, libraries, programs and kernels in caches; and the key that tells them apart."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import aprgraph
from aprgraph.api import CompiledModel, load, open_artifact
from aprgraph.codegen import compile_model
from aprgraph.codegen.artifact import digest, library_in, read_artifact
from aprgraph.codegen.cache import artifacts
from aprgraph.codegen.cache.artifacts import cache_directory
from aprgraph.codegen.trust import folder, key
from aprgraph.codegen.trust.artifacts import TRUSTED, is_trusted
from aprgraph.codegen.trust.key import user_key
from aprgraph.graph.errors import ArtifactError
from tests.support.cli import fails, run_cli
from tests.support.compiled import compiled, shared_model, use_cache

RUN = ("--tokens", "5,200,17")


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> CompiledModel:
    return compiled(shared_model(tiny_model))


@pytest.fixture
def copy(tiny: CompiledModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.artifact.directory, tmp_path / "m.llvm.aprg"))


@pytest.fixture
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From here on, this process has another user's key."""
    place = tmp_path / "another user/trust"
    monkeypatch.setenv("APRGRAPH_TRUST", str(place))
    return place


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A library that makes a file when it is loaded, and the file."""
    place = tmp_path_factory.mktemp("trap")
    told = place / "told"
    source = f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{told}", "w")); }}\n'
    (place / "trap.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", place / "trap.so", place / "trap.c"], check=True)
    return (place / "trap.so").read_bytes(), told


def forge(artifact: Path, code: bytes) -> None:
    """Put other code in, with all digests right."""
    manifest = artifact / "artifact.json"
    document = json.loads(manifest.read_text())
    library_in(artifact, document["library"]).unlink()
    document["library"] = digest(code)
    library_in(artifact, document["library"]).write_bytes(code)
    manifest.write_text(json.dumps(document, indent=1) + "\n")


# -- artifacts ----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("SAFE-ARTIFACT-1")
def test_the_trap_works_where_it_is_trusted(copy: Path, trap: tuple[bytes, Path]) -> None:
    """Else the tests below would show nothing."""
    code, told = trap
    forge(copy, code)
    assert run_cli("trust", copy, "--yes").code == 0
    with pytest.raises(Exception, match=r".*"):  # it has no kernels
        open_artifact(copy).logits([1, 2])
    assert told.exists()
    told.unlink()


@pytest.mark.contract("SAFE-ARTIFACT-1")
def test_forged_code_is_not_loaded_by_any_road(
    tiny: CompiledModel, copy: Path, trap: tuple[bytes, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = trap
    forge(copy, code)
    assert fails("run", copy, *RUN) == (
        f"{copy}: holds machine code, and it was changed since you compiled it; compile it from the model, or, if you trust where it comes "
        f"from, `aprgraph trust {copy}`"
    )
    monkeypatch.chdir(tmp_path)
    assert "holds machine code" in fails("run")  # the only artifact in this folder
    assert "holds machine code" in fails("bisect", tiny.model.path, "--a", copy, "--b", "reference", *RUN)
    assert "holds machine code" in fails("run", copy, *RUN, "--rpc", "127.0.0.1:9")
    with pytest.raises(ArtifactError, match=r"if you trust where it comes from, `aprgraph\.trust\('.*m\.llvm\.aprg'\)`$"):
        open_artifact(copy, tiny.model.path)
    with pytest.raises(ArtifactError, match="holds machine code"):
        CompiledModel(read_artifact(copy), tiny.model).logits([1, 2])
    # beside the model
    model = tmp_path / "beside/m.gguf"
    model.parent.mkdir()
    shutil.copyfile(tiny.model.path, model)
    shutil.copytree(copy, model.with_name("m.llvm.aprg"))
    assert run_cli("run", model, *RUN).code == 0
    # in the cache
    use_cache(monkeypatch, tmp_path / "cache")
    planted = cache_directory(tiny.model, "llvm", None)
    shutil.copytree(copy, planted)
    done = run_cli("run", tiny.model.path, *RUN)
    assert (done.code, done.err) == (0, "")
    assert read_artifact(planted).library.read_bytes() == tiny.artifact.library.read_bytes()
    assert not told.exists()
    assert run_cli("inspect", copy).code == 0  # it may be looked at
    assert "trusted" in run_cli("inspect", copy).out


@pytest.mark.contract("SAFE-LOADED-1")
def test_what_was_verified_is_what_is_loaded(tiny: CompiledModel, copy: Path, trap: tuple[bytes, Path]) -> None:
    code, told = trap
    opened = open_artifact(copy, tiny.model.path)
    opened.artifact.library.write_bytes(code)
    assert opened.logits([5, 200, 17]).tobytes() == tiny.logits([5, 200, 17]).tobytes()
    assert not told.exists()


def test_the_same_descriptor_with_another_library_is_another_library(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The system's loader would give the first one again, by the path."""
    places = []
    for hidden in (64, 128, 64):
        artifact = load(tiny_model(layers=1, hidden=hidden)).compile(directory=tmp_path / "m.aprg").artifact
        places.append(artifact.kernel_code.path())
        with pytest.raises(PermissionError):
            os.pwrite(int(places[-1].rpartition("/")[2]), b"x", 0)  # sealed
    one, two, again = places
    assert one.rpartition("/")[0] != two.rpartition("/")[0]
    assert one == again


def test_an_artifact_that_is_moved_or_copied_stays_trusted(tiny: CompiledModel, copy: Path, tmp_path: Path) -> None:
    moved = copy.rename(tmp_path / "elsewhere.aprg")
    assert run_cli("run", moved, "--model", tiny.model.path, *RUN).code == 0


@pytest.mark.contract("SAFE-ARTIFACT-1")
def test_another_user_trusts_it_or_not(tiny: CompiledModel, copy: Path, another_user: Path, tmp_path: Path) -> None:
    assert fails("run", copy, *RUN).startswith(
        f"{copy}: holds machine code, and another user compiled it, or you did, with a key that is lost; "
    )
    shutil.rmtree(copy / TRUSTED)
    assert "and nothing says that you compiled it; " in fails("run", copy, *RUN)
    identity = hashlib.sha256((copy / "artifact.json").read_bytes()).hexdigest()
    with pytest.raises(ArtifactError, match="its identity is .*, expected 'abc'; do not trust it"):
        aprgraph.trust(copy, "abc")
    assert not (copy / TRUSTED).exists()
    assert aprgraph.trust(copy, f"sha256:{identity}") == identity
    assert run_cli("run", copy, "--model", tiny.model.path, *RUN).code == 0
    # both trust it now, each by a key of their own
    shutil.copytree(tiny.artifact.directory / TRUSTED, copy / TRUSTED, dirs_exist_ok=True)
    assert len(list((copy / TRUSTED).iterdir())) == 2
    assert is_trusted(copy, identity)


def test_one_that_cannot_be_written_is_trusted_in_the_users_own_folder(
    copy: Path, another_user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    shutil.rmtree(copy / TRUSTED)
    monkeypatch.setattr("aprgraph.codegen.trust.artifacts.write_whole", cannot)
    shown = run_cli("trust", copy, "--yes")
    assert shown.out.splitlines()[-1] == "trusted from now on, in your trust folder, as the artifact cannot be written"
    assert sorted(path.name for path in another_user.iterdir()) == sorted([read_artifact(copy).identity, "key"])
    assert is_trusted(copy, read_artifact(copy).identity)
    (copy / "artifact.json").write_text((copy / "artifact.json").read_text() + " ")
    assert not is_trusted(copy, read_artifact(copy).identity)


def test_the_command_shows_what_it_trusts(tiny: CompiledModel, copy: Path, another_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny.artifact
    assert fails("trust", copy) == f"{copy}: not trusted, as nobody can be asked here; give --yes, or --identity {artifact.identity}"
    assert fails("trust", copy, "--identity", "0" * 64).startswith(f"{copy}: its identity is {artifact.identity}, expected '000")
    shown = run_cli("trust", copy, "--identity", artifact.identity).out
    for part in (
        f"of user {os.geteuid()}",
        artifact.target_name,
        artifact.fingerprint,
        artifact.library.name,
        artifact.library_digest,
        "apache-tvm",
    ):
        assert part in shown, part
    assert shown.endswith("trusted from now on\n")
    assert run_cli("trust", copy).out.endswith("you compiled it, or trust it already\n")
    document = json.loads(run_cli("trust", copy, "--json").out)
    assert (document["identity"], document["already_trusted"]) == (artifact.identity, True)
    assert [item["sha256"] for item in document["files"]] == [artifact.identity, artifact.library_digest]
    assert "no artifact.json" in fails("trust", copy.parent)


# -- programs and kernels -----------------------------------------------------------------------------------------------


@pytest.mark.contract("SAFE-CACHE-1")
def test_a_program_of_somebody_else_is_made_again(tiny: CompiledModel, copy: Path) -> None:
    shutil.rmtree(copy / "programs", ignore_errors=True)
    opened = open_artifact(copy, tiny.model.path)
    graph = opened.artifact.graph
    made = opened.artifact.program(graph)
    (own,) = (copy / "programs").iterdir()
    name, _, code = own.stem.partition("-")
    for stem in (f"{name}-{digest(b'planted')}", f"{name}-{digest(b'planted')[:24]}", f"{name}-{code}"):
        own.unlink(missing_ok=True)
        (copy / f"programs/{stem}.vm").write_bytes(b"planted")
        assert opened.artifact.program(graph) == made
    other = replace(opened.artifact, identity="0" * 64)  # of an artifact whose kernels may be called otherwise
    before = own.stat().st_mtime_ns
    assert other.program(graph) == made
    assert own.stat().st_mtime_ns == before
    assert len([path for path in (copy / "programs").glob(f"{name}-*") if path.read_bytes() == made]) == 2


@pytest.mark.contract("SAFE-CACHE-1")
def test_a_kernel_of_somebody_else_is_not_linked(tiny: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aprgraph.codegen.cache.kernels import open_kernel_cache

    monkeypatch.setenv("APRGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APRGRAPH_CACHE_SIZE", raising=False)
    cache = open_kernel_cache()
    cache.keep("add.o", b"code")
    cache.keep("mul.o", b"other code")
    assert cache.find("add.o") == b"code"
    place = tmp_path / "cache/kernels"
    shutil.copyfile(place / "mul.o", place / "add.o")  # made by this user, for another name
    assert cache.find("add.o") is None
    (place / "add.o").write_bytes(b"planted" + hashlib.sha256(b"planted").digest())
    assert cache.find("add.o") is None
    (place / "add.o").write_bytes(b"")
    assert cache.find("add.o") is None


def test_users_of_one_cache_do_not_meet(tiny: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aprgraph.codegen.cache.kernels import key_of

    mine = key_of("add"), cache_directory(tiny.model, "llvm", None)
    monkeypatch.setenv("APRGRAPH_TRUST", str(tmp_path / "trust"))
    assert not {key_of("add"), cache_directory(tiny.model, "llvm", None)}.intersection(mine)


# -- the key ------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("SAFE-KEY-1")
def test_the_key_is_this_users_alone(another_user: Path) -> None:
    made = user_key()
    assert made.why is None
    assert stat.S_IMODE(another_user.stat().st_mode) == 0o700
    assert stat.S_IMODE((another_user / "key").stat().st_mode) == 0o600
    assert [path.name for path in another_user.iterdir()] == ["key"]
    key._read.clear()
    assert user_key() == made
    assert made.secret.hex() not in repr(made)


@pytest.mark.contract("SAFE-KEY-1")
@pytest.mark.parametrize("fault", ["folder of others", "folder for others", "key for others", "link", "damaged", "fifo", "not a folder"])
def test_a_key_that_others_may_know_is_none(fault: str, another_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_key()
    key._read.clear()
    place, said = another_user / "key", f"{another_user}/key, this user's key, "
    if fault == "folder of others":
        monkeypatch.setattr(folder.os, "geteuid", lambda: 12345)
        said = f"{another_user} belongs to user {another_user.stat().st_uid}, and this process runs as user 12345"
    elif fault == "folder for others":
        another_user.chmod(0o777)
        said = f"{another_user} may be written by others (mode 777; chmod go-w it)"
    elif fault == "key for others":
        place.chmod(0o640)
    elif fault == "link":
        place.rename(another_user / "elsewhere")
        place.symlink_to(another_user / "elsewhere")
    elif fault == "damaged":
        place.write_text("not hex")
        said = f"{place} is damaged, expected 64 hex digits (remove it; a new key is made)"
    elif fault == "fifo":
        place.unlink()
        os.mkfifo(place, 0o600)
    else:
        shutil.rmtree(another_user)
        another_user.write_text("a file")
        said = f"{another_user} cannot be"
    found = user_key()
    assert found.why is not None
    assert found.why.startswith(said)
    assert found.secret == user_key().secret  # so that what this process compiles runs in it


@pytest.mark.contract("SAFE-KEY-1")
def test_without_a_key_a_model_runs_and_an_artifact_says_why_not(
    tiny_model: Callable[..., Path], copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("APRGRAPH_TRUST", "/proc/nope/trust")
    why, remedy = (
        "/proc/nope/trust cannot be made: No such file or directory",
        "set APRGRAPH_TRUST to a folder of yours that nobody else may write",
    )
    assert fails("run", copy, *RUN) == (
        f"{copy}: holds machine code, and nothing tells whether you compiled it, as {why} ({remedy}); compile it from the model, or, if you "
        f"trust where it comes from, `aprgraph trust {copy}`"
    )
    assert "cannot be trusted for longer than this process lives" in fails("trust", copy, "--yes")
    monkeypatch.setattr(compile_model, "build_library", lambda _requests, _cpu, path: path.write_text("code"))
    said: list[str] = []
    request.addfinalizer(artifacts._cache_of_this_process.cache_clear)  # the end of a command removes the folder
    made = load(tiny_model(layers=1)).compile_cached(on_notice=said.append).artifact
    assert said == [f"no key of this user can be kept: {why}; compiled into a temporary folder, so the next run compiles again: {remedy}"]
    assert made.kernel_code.data == b"code"  # it may run in this process
    told = run_cli("compile", tiny_model(layers=1), "-o", tmp_path / "new.aprg").err
    assert (
        told == f"note: no key of this user can be kept: {why}; only this process knows that you compiled {tmp_path}/new.aprg: {remedy}\n"
    )
    assert run_cli("inspect", tmp_path / "new.aprg").code == 0
    monkeypatch.setenv("APRGRAPH_TRUST", str(tmp_path / "trust"))
    assert f"`aprgraph trust {tmp_path}/new.aprg`" in fails("run", tmp_path / "new.aprg", *RUN)


def test_processes_that_make_the_key_at_once_have_one(tmp_path: Path) -> None:
    code = "from aprgraph.codegen.trust.key import user_key; key = user_key(); assert key.why is None, key.why; print(key.secret.hex())"
    environment = {**os.environ, "APRGRAPH_TRUST": str(tmp_path / "trust")}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, cwd=tmp_path) for _ in range(4)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert os.listdir(tmp_path / "trust") == ["key"]

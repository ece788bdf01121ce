"""Artifacts that nobody named: in the cache, where it cannot be written, and beside the model."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import load
from aprgraph.codegen.artifact import read_artifact
from aprgraph.codegen.cache import artifacts as cache
from aprgraph.codegen.cache.artifacts import cache_directory
from aprgraph.codegen.cpu import objects
from aprgraph.codegen.cpu.levels import native_cpu
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.model import load_model
from aprgraph.option_words import in_option_words
from tests.support.cli import run_cli, run_process
from tests.support.compiled import shared_model, use_cache


@pytest.fixture(scope="module")
def model_path(tiny_model: Callable[..., Path]) -> Path:
    """See ``shared_model``."""
    return shared_model(tiny_model)


def test_the_cache_has_a_place_for_each_thing_that_matters(
    tiny_model: Callable[..., Path], model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE", str(tmp_path))
    model = load_model(model_path)
    shutil.copyfile(model_path, tmp_path / model_path.name)
    places = [
        cache_directory(model, "llvm", None), cache_directory(model, "reference", None),
        cache_directory(load_model(model_path, {"tokenizer.ggml.model": "x"}), "llvm", None), cache_directory(load_model(tiny_model()), "llvm", None),
        cache_directory(load_model(tmp_path / model_path.name), "llvm", None),
    ]  # fmt: skip
    assert len(set(places)) == len(places)
    assert {place.parent for place in places} == {tmp_path}
    assert cache_directory(load_model(model_path), "llvm", None) == places[0]
    monkeypatch.setattr(cache, "versions", lambda: {"aprgraph": "99"})
    assert cache_directory(model, "llvm", None) not in places


def test_where_the_cache_is(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(model_path)
    monkeypatch.delenv("APRGRAPH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory(model, "reference", None).parent == tmp_path / "xdg" / "aprgraph"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory(model, "reference", None).parent == tmp_path / "home" / ".cache" / "aprgraph"


def test_the_cache_is_filled_once_and_mended(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE", str(tmp_path))
    loaded = load(model_path)
    assert loaded.find_cached("reference") is None
    place = loaded.compile_cached("reference").artifact.directory
    manifest = place / "artifact.json"
    written, whole = manifest.stat().st_mtime_ns, manifest.read_bytes()
    assert loaded.compile_cached("reference").artifact.directory == place
    assert manifest.stat().st_mtime_ns == written
    manifest.write_bytes(whole[:50])
    loaded.compile_cached("reference")
    assert manifest.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_where_the_cache_cannot_be_written_a_temporary_one_serves(model_path: Path, tmp_path: Path) -> None:
    """In a container without a home: the run succeeds, says so, and leaves nothing."""
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp"), "APRGRAPH_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/proc/nope"}
    run = ("run", model_path, "--tokens", "1,2,3", "--target", "reference", "--taps", "lm_head", "-o", "t")
    result = run_process(*run, cwd=tmp_path, env=env)
    assert result.code == 0, result.err
    (note,) = result.err.splitlines()
    assert note.startswith("note: /proc/nope")
    assert note.endswith("cannot be written: No such file or directory; compiled into a temporary folder, so the next run compiles again: "
                         "set APRGRAPH_CACHE to a folder that can be written")  # fmt: skip
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_user_without_a_home_has_no_cache(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APRGRAPH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    loaded, said = load(model_path), []
    assert loaded.find_cached("reference") is None
    first = loaded.compile_cached("reference", on_notice=said.append)
    assert said[0].startswith("nothing says where the user's cache is; compiled into a temporary folder")
    assert stat.S_IMODE(first.artifact.directory.parent.stat().st_mode) == 0o700
    with pytest.warns(UserWarning, match="nothing says where the user's cache is"):
        assert loaded.compile_cached("reference").artifact.directory == first.artifact.directory
    cache._cache_of_this_process.cache_clear()


def test_no_place_at_all(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE", "/proc/nope")
    cache._cache_of_this_process.cache_clear()
    monkeypatch.setattr(cache, "folder_of_this_process", lambda _: Path("/proc/nope/below").mkdir())
    with pytest.raises(
        ArtifactError, match="cannot be written: No such file or directory, nor .*; set APRGRAPH_CACHE to a folder that can be"
    ):
        load(model_path).compile_cached("reference", on_notice=lambda _: None)


# -- beside the model ---------------------------------------------------------------------------------------------------


@pytest.fixture
def beside(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose artifact lies beside it, compiled by this user."""
    use_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.delenv("APRGRAPH_CACHE_SIZE", raising=False)  # which `make test-cold` sets
    path = tmp_path / "models/m.gguf"
    path.parent.mkdir()
    shutil.copyfile(tiny_model(layers=1), path)
    load(path).compile(directory=path.with_name("m.llvm.aprg"))
    return path


def test_an_artifact_beside_the_model_is_run(beside: Path, tmp_path: Path) -> None:
    loaded = load(beside)
    assert loaded.find_cached().artifact.directory == beside.with_name("m.llvm.aprg")
    assert loaded.compile_cached().artifact.directory == beside.with_name("m.llvm.aprg")
    assert run_cli("run", beside, "--tokens", "1,2,3").code == 0
    assert list((tmp_path / "cache").glob("*.aprg")) == []
    shutil.move(beside.parent, tmp_path / "moved")  # both together
    assert load(tmp_path / "moved/m.gguf").find_cached().artifact.directory == tmp_path / "moved/m.llvm.aprg"


def test_one_that_is_not_what_compiling_here_would_give_is_passed_over(
    beside: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(beside).find_cached("reference") is None
    assert load(beside).find_cached(cpu="x86-64-v2" if native_cpu().name != "x86-64-v2" else "x86-64-v3") is None
    assert load(beside, {"llama.rope.freq_base": 5.0}).find_cached() is None
    assert load(beside, ignore=["tokenizer.ggml.pre"]).find_cached() is None
    with monkeypatch.context() as patch:
        patch.setattr(cache, "sources", lambda: "another state of the package")
        assert load(beside).find_cached() is None
    assert load(beside).find_cached() is not None
    beside.write_bytes(tiny_model(layers=1, hidden=128).read_bytes())
    assert load(beside).find_cached() is None


def test_code_that_this_user_did_not_compile_is_not_run_unasked(beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been downloaded with the model."""
    place, said = beside.with_name("m.llvm.aprg"), []
    monkeypatch.setenv("APRGRAPH_TRUST", str(tmp_path / "another user's"))
    assert load(beside).find_cached() is None
    assert cache.find_beside(load_model(beside), "llvm", None, said.append) is None
    assert list(map(in_option_words, said)) == [
        f"{place} was not compiled by you, so its code is not run; if you trust where it comes from, `aprgraph trust {place}`"
    ]
    assert load(beside).compile("reference", beside.with_name("m.reference.aprg"))  # has no code
    monkeypatch.setenv("APRGRAPH_TRUST", str(tmp_path / "a third user's"))
    assert load(beside).find_cached("reference").artifact.directory == beside.with_name("m.reference.aprg")


def test_an_edited_artifact_is_no_longer_this_users(beside: Path) -> None:
    manifest = beside.with_name("m.llvm.aprg") / "artifact.json"
    manifest.write_text(manifest.read_text() + " ")
    assert load(beside).find_cached() is None


# -- what compiling a model again takes ---------------------------------------------------------------------------------


def test_the_same_model_elsewhere_and_compiles_no_kernel_again(beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(beside, tmp_path / "renamed.gguf")

    def compile_it(*_: object) -> bytes:
        raise AssertionError("a kernel was compiled")

    monkeypatch.setattr(objects, "_compile", compile_it)
    first = read_artifact(beside.with_name("m.llvm.aprg"))
    again = load(tmp_path / "renamed.gguf").compile(directory=tmp_path / "again.aprg").artifact
    assert again.library.read_bytes() == first.library.read_bytes()

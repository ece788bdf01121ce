"""The cache of compiled models: where it is, and what happens where it cannot be written."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import load
from aprgraph.codegen import cache
from aprgraph.codegen.cache import cache_directory
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.model import load_model
from tests.support.cli import run_process
from tests.support.compiled import shared_model


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
    cache._folder_of_this_process.cache_clear()


def test_no_place_at_all(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE", "/proc/nope")
    cache._folder_of_this_process.cache_clear()
    monkeypatch.setattr(cache.tempfile, "mkdtemp", lambda **_: Path("/proc/nope/below").mkdir())
    with pytest.raises(
        ArtifactError, match="cannot be written: No such file or directory, nor .*; set APRGRAPH_CACHE to a folder that can be"
    ):
        load(model_path).compile_cached("reference", on_notice=lambda _: None)

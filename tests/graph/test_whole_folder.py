"""Folders and files that appear whole, in place of old ones that are never lost, and leftovers of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph import whole_folder as module
from aprgraph.graph.claimed_names import new_file, new_folder, remove_leftovers
from aprgraph.graph.whole_file import durable_file
from aprgraph.graph.whole_folder import whole_folder
from tests.support.cli import files_under


@pytest.fixture(params=[True, False], ids=["exchanged", "in two steps"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without renameat2."""
    if not request.param:
        monkeypatch.setattr(module, "_renameat2", lambda: None)


def write(place: Path, text: str) -> None:
    with whole_folder(place) as folder:
        (folder / "file").write_text(text)


@pytest.mark.usefixtures("_system")
@pytest.mark.contract("ERR-WRITE-1")
def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path / "above" / "place", text)
        assert files_under(tmp_path) == {"above/place/file": text.encode()}
    assert (tmp_path / "above/place").stat().st_mode & 0o777 == 0o777 & ~umask()
    (tmp_path / "link").symlink_to("above/place")
    write(tmp_path / "link", "third")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "above/place/file").read_text() == "third"


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.usefixtures("_system")
@pytest.mark.contract("ERR-WRITE-1")
@pytest.mark.parametrize("failing", range(1, 4))
def test_no_fault_of_any_rename_loses_the_old_one(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first, second or third rename on, all fail, so that what is to undo one fails too."""
    write(tmp_path / "place", "old")
    count, rename = 0, os.rename

    def faulty(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count >= failing and count > 1:  # the first says that a folder is there
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", faulty)
    try:
        write(tmp_path / "place", "new")
    except OSError as error:
        where = Path(error.strerror.partition("what was there is at ")[2].rstrip(")") or tmp_path / "place")
        assert (where / "file").read_text() == "old"
    else:
        assert (tmp_path / "place/file").read_text() == "new"
    monkeypatch.undo()
    write(tmp_path / "place", "newer")
    assert files_under(tmp_path) == {"place/file": b"newer"}


@pytest.mark.contract("ERR-LEFT-1")
def test_one_that_was_moved_away_by_a_killed_process_is_put_back(tmp_path: Path) -> None:
    write(tmp_path / "place", "old")
    (tmp_path / "place").rename(tmp_path / ".place.old.01234567")
    remove_leftovers(str(tmp_path / "place"))
    assert files_under(tmp_path) == {"place/file": b"old"}


#: Begins to write a file and a folder, says so, and waits to be killed.
_WRITER = """
import sys, time
from pathlib import Path
from aprgraph.graph.whole_file import durable_file
from aprgraph.graph.whole_folder import whole_folder
with whole_folder(Path("place")) as folder, durable_file("page") as file:
    Path(folder, "file").write_text("cut off")
    Path(file).write_text("cut off")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.contract("ERR-LEFT-1")
def test_leftovers_go_once_their_process_is_dead_and_not_before(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER], cwd=tmp_path, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"

    def write_both() -> list[str]:
        write(tmp_path / "place", "new")
        with durable_file(tmp_path / "page") as file:
            Path(file).write_text("new")
        return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))

    (tmp_path / ".place.of.mine").touch()
    assert len(write_both()) == 3  # alive
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert write_both() == [".place.of.mine"]
    assert files_under(tmp_path) == {".place.of.mine": b"", "page": b"new", "place/file": b"new"}


@pytest.mark.parametrize(("new", "made_by"), [(new_file, "close"), (new_folder, "mkdir")])
def test_a_name_that_is_taken_for_a_leftover_before_it_is_locked_is_given_up_for_another(
    new: Callable[[str], AbstractContextManager[str]], made_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that begins at the same place sees what has no lock yet."""
    place, make, removed = str(tmp_path / "place"), getattr(os, made_by), []

    def make_and_lose(*arguments: Any) -> None:
        make(*arguments)
        if not removed:
            removed.extend(tmp_path.iterdir())
            monkeypatch.undo()
            remove_leftovers(place)
            assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(os, made_by, make_and_lose)
    with new(place) as path:
        assert Path(path).exists()
        assert removed != [Path(path)]
        assert len(removed) == 1
    assert list(tmp_path.iterdir()) == []


def test_temporary_names_are_taken_once(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    with new_file(place) as one, new_file(place) as other, new_folder(place) as folder:
        assert len({one, other, folder}) == 3
        remove_leftovers(place)
        assert len(list(tmp_path.iterdir())) == 3
    assert list(tmp_path.iterdir()) == []

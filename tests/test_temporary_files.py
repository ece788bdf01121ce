"""Where the temporary files of tests lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.plugin_memory import has_room


def test_a_place_in_memory_has_room_and_may_hold_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_room(tmp_path, room=1)
    assert not has_room(tmp_path, room=1 << 62)
    assert not has_room(tmp_path / "none", room=1)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC, f_bavail=8, f_frsize=1))
    assert not has_room(tmp_path, room=1)


def test_tests_and_what_they_start_use_the_same_place(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    assert tempfile.gettempdir() == os.environ.get("TMPDIR", tempfile.gettempdir())
    if pytestconfig.option.basetemp is None:
        assert tmp_path.is_relative_to(Path(tempfile.gettempdir()).resolve())

"""Nothing of a person's is lost: what a trace, a page, a picture or a repro may replace, and what is refused."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.output_file import check_file_place, probe
from aprgraph.runtime.trace.destination import check_trace_place
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.cli import files_under
from tests.support.traces import values, write_bare, write_trace

FEW = {(0, "embedding"): values(3, 4)}
MANY = {**FEW, (1, "ffn_out"): values(3, 4), (None, "lm_head"): values(9), (0, "ffn_out", 2): values(1, 4)}


def theirs(place: Path, **options: Any) -> Trace:
    """A trace of another program."""
    return Trace.write(place, {"layer0.ffn_out": values(3, 4)}, **{"writer": "engine 1.0", **options})


# -- what is replaced ---------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-PLACE-1")
def test_an_earlier_trace_is_replaced_whole(tmp_path: Path) -> None:
    """No tensor of it stays beside the new ones, and no empty folder; other people's files do."""
    write_trace(tmp_path / "t", MANY)
    (tmp_path / "t" / "layer-1" / "notes.txt").write_text("mine")
    write_trace(tmp_path / "t", FEW)
    assert set(files_under(tmp_path / "t")) == {"layer-0/embedding.bin", "layer-1/notes.txt", MANIFEST}
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["layer-0", "layer-1", MANIFEST]
    assert Trace.open(tmp_path / "t").unread == ()


@pytest.mark.contract("CAPTURE-PLACE-1")
def test_an_earlier_trace_is_untouched_before_the_first_tensor(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", MANY)
    before = files_under(tmp_path / "t")
    TraceWriter(tmp_path / "t").close()
    assert files_under(tmp_path / "t") == before


def test_with_statistics_alone_no_old_tensor_stays(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", MANY)
    write_trace(tmp_path / "t", MANY, stats_only=True)
    assert set(files_under(tmp_path / "t")) == {MANIFEST}


def test_what_an_interrupted_run_left_goes_but_not_what_was_there_before_it(tmp_path: Path) -> None:
    place = write_bare(tmp_path / "t", {(3, "attn_norm"): values(3, 4)})
    writer = TraceWriter(place, force=True)
    writer.write("x", "ffn_out", 0, 0, values(3, 4))
    writer.close()
    assert MARKER in files_under(place)
    write_trace(place, FEW)
    assert set(files_under(place)) == {"layer-0/embedding.bin", "layer-3/attn_norm.bin", MANIFEST}


def test_a_second_capture_of_the_same_program_replaces_the_first(tmp_path: Path) -> None:
    theirs(tmp_path / "t")
    theirs(tmp_path / "t", writer="engine, 2.0")
    for target in ("numpy", "numpy on another day"):
        theirs(tmp_path / "u", writer=None, target=target)


# -- what is refused ----------------------------------------------------------------------------------------------------


def _foreign_trace(place: Path) -> None:
    theirs(place)


def _foreign_tensors(place: Path) -> None:
    write_bare(place, MANY)


def _stale_tensors(place: Path) -> None:
    write_trace(place, FEW)
    write_bare(place, {(7, "ffn_out"): values(3, 4)})


def _notes(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def _damaged(place: Path) -> None:
    write_trace(place, FEW)
    (place / MANIFEST).write_text("{")


@pytest.mark.contract("CAPTURE-PLACE-2")
@pytest.mark.parametrize(("make", "message"), [
    (_foreign_trace, "holds a trace that engine wrote"),
    (_foreign_tensors, r"holds tensors without a trace\.json, as another program leaves them \(lm_head\.bin, .* and 1 more\)"),
    (_stale_tensors, r"holds tensors that its trace\.json does not list \(layer-7/ffn_out\.bin\)"),
    (_notes, r"holds what is no trace \(notes\.txt\)"),
    (_damaged, r"holds a trace\.json that is no whole manifest"),
])  # fmt: skip
def test_what_is_somebodys_is_written_over_only_by_force(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    place = tmp_path / "t"
    make(place)
    before = files_under(place)
    with pytest.raises(TraceError, match=rf"{message}; give force=True to write there all the same, or give another place$"):
        TraceWriter(place)
    assert files_under(place) == before
    writer = TraceWriter(place, force=True)
    assert files_under(place) == before
    writer.write("x", "embedding", 0, 0, values(3, 4, seed=3))
    writer.close()
    # What is not in the way stays, but for a trace that has a manifest of its own.
    gone = {MANIFEST} | (set(before) if make is _foreign_trace else set()) | {"layer-0/embedding.bin"}
    assert {name: data for name, data in files_under(place).items() if name in before and name not in gone} == {
        name: data for name, data in before.items() if name not in gone
    }


@pytest.mark.contract("CAPTURE-PLACE-2")
def test_arrays_do_not_go_over_a_run_nor_over_another_program(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", MANY)
    before = files_under(tmp_path / "t")
    with pytest.raises(TraceError, match="holds a trace that aprgraph wrote"):
        theirs(tmp_path / "t")
    assert files_under(tmp_path / "t") == before
    theirs(tmp_path / "t", force=True)
    with pytest.raises(TraceError, match="holds a trace that engine wrote"):
        theirs(tmp_path / "t", writer="other")


def test_a_run_in_progress_is_waited_for_even_with_force(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t")
    writer.write("x", "embedding", 0, 0, values(3, 4))
    with pytest.raises(TraceError, match="another run is writing there; wait for it, or give another place"):
        check_trace_place(tmp_path / "t", force=True)
    writer.close()
    assert check_trace_place(tmp_path / "t").old == ("layer-0/embedding.bin",)


def test_a_manifest_cannot_name_what_is_no_tensor_for_removal(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", FEW)
    (tmp_path / "t" / "thesis.txt").write_text("mine")
    path = tmp_path / "t" / MANIFEST
    path.write_text(path.read_text().replace("layer-0/embedding.bin", "thesis.txt"))
    with pytest.raises(TraceError, match=r"holds tensors that its trace\.json does not list \(layer-0/embedding\.bin\)"):
        write_trace(tmp_path / "t", FEW)
    write_trace_by_force(tmp_path / "t")
    assert (tmp_path / "t" / "thesis.txt").read_text() == "mine"


def write_trace_by_force(place: Path) -> None:
    writer = TraceWriter(place, force=True)
    writer.write("x", "embedding", 0, 0, values(3, 4))
    writer.close()


@pytest.mark.contract("ERR-WRITE-2")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", ["layer-0", "step-1", "step-1/layer-0"])
def test_a_folder_that_is_a_link_is_not_written_through(place: str, force: bool, tmp_path: Path) -> None:
    write_trace(tmp_path / "t", FEW)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.bin").write_bytes(b"mine")
    link = tmp_path / "t" / place
    shutil.rmtree(link, ignore_errors=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    before = files_under(tmp_path)
    with pytest.raises(TraceError, match=f"t/{place}: is a link, and a trace is written into folders of its own; remove it"):
        TraceWriter(tmp_path / "t", force=force)
    assert files_under(tmp_path) == before


def test_a_folder_that_becomes_a_link_while_it_runs(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t")
    writer.write("x", "embedding", None, 0, values(3, 4))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t" / "step-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TraceError, match="t/step-1: is a link"):
        writer.write("x", "attn_norm", 0, 1, values(3, 4))
    writer.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.contract("ERR-LEFT-1")
def test_what_a_killed_run_left_goes_with_the_next_and_nothing_else_does(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", FEW)
    leftovers = ("layer-0/.attn_norm.bin.7-8.tmp", "step-1/layer-0/.attn_norm.bin.7-8.tmp", ".lm_head.bin.7-8.tmp")
    others = (".notes.7-8.tmp", "layer-0/.attn_norm.bin.tmp", "mine/.attn_norm.bin.7-8.tmp")
    for file in (*leftovers, *others):
        (tmp_path / "t" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / file).write_bytes(b"cut off")
    TraceWriter(tmp_path / "t")  # one that only looks removes nothing
    assert all((tmp_path / "t" / file).exists() for file in leftovers)
    write_trace(tmp_path / "t", FEW)
    assert not any((tmp_path / "t" / file).exists() for file in leftovers)
    assert all((tmp_path / "t" / file).exists() for file in others)


# -- files --------------------------------------------------------------------------------------------------------------


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    probe(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    for place in (Path("/proc/nope"), tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TraceError, match="cannot be written: "):
            probe(place)
    assert files_under(tmp_path) == {"file": b"mine"}


def test_a_file_is_replaced_only_where_this_program_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "page"
    check_file_place(path, lambda head: False, "page")
    path.write_text("")
    check_file_place(path, lambda head: False, "page")
    path.write_text("<!doctype html> of somebody")
    check_file_place(path, lambda head: head.startswith(b"<!doc"), "page")
    with pytest.raises(TraceError, match="page: is there, and is no page that aprgraph wrote; give another place"):
        check_file_place(path, lambda head: False, "page")
    with pytest.raises(TraceError, match="is a folder, expected the name of a file"):
        check_file_place(tmp_path, lambda head: True, "page")
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(TraceError, match="would lie in an artifact, which compiling again removes"):
        check_file_place(path, lambda head: True, "page")


def test_a_full_disk_and_a_closed_one_say_different_things(tmp_path: Path) -> None:
    for code, more in ((errno.ENOSPC, "free some space, or "), (errno.EACCES, "")):
        error = TraceError.unwritable("x", OSError(code, os.strerror(code)))
        assert str(error) == f"x: cannot be written: {os.strerror(code)}; {more}give another place"
    assert error.place is not None
    assert error.place.text("give another place with -o").endswith("; give another place with -o")


def test_what_is_read_can_be_written_back(tmp_path: Path) -> None:
    """Its tensors are maps of the files that go."""
    trace = theirs(tmp_path / "t")
    theirs(tmp_path / "t")
    Trace.write(tmp_path / "t", {(0, "ffn_out"): trace.tensor("ffn_out", 0)}, writer="engine 1.0")
    assert np.array_equal(Trace.open(tmp_path / "t").tensor("ffn_out", 0), values(3, 4))

"""What is reported as done is on the disk: the order of what the system is asked for, and images of a disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph import durable
from aprgraph.graph.errors import TraceError
from aprgraph.graph.model import load_model
from aprgraph.runtime.output_file import write_text_atomically
from aprgraph.runtime.trace import aprt
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.cli import run_python
from tests.support.traces import values, write_trace

TENSORS = {(0, "attn_norm"): values(3, 4), (1, "attn_norm"): values(3, 4), (None, "lm_head"): values(9)}


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What the system was asked for: written (of tensors), sync, syncfs, rename and unlink, with the last part of the name, or the two."""
    calls: list[tuple[str, str]] = []

    def name(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def wrap(of: Any, function: str, said: str, words: Any) -> None:
        original = getattr(of, function)

        def call(*given: Any, **named: Any) -> Any:
            calls.append((said, words(*given)))
            return original(*given, **named)

        patch.setattr(of, function, call)

    with monkeypatch.context() as patch:
        wrap(os, "fsync", "sync", name)
        wrap(aprt, "_write_all", "written", lambda descriptor, *_: name(descriptor))
        for function in ("replace", "rename"):
            wrap(os, function, "rename", lambda _source, target: Path(target).name)
        wrap(os, "unlink", "unlink", lambda path, **_: Path(path).name)
        syncfs = durable._syncfs()

        def sync_all(descriptor: int) -> int:
            calls.append(("syncfs", name(descriptor)))
            return int(syncfs(descriptor))

        if syncfs is not None:
            patch.setattr(durable, "_syncfs", lambda: sync_all)
        yield calls


@pytest.mark.contract("ERR-DURABLE-1")
def test_a_manifest_is_written_when_its_tensors_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded(monkeypatch) as calls:
        write_trace(tmp_path / "t", TENSORS)
    tensors = max(index for index, call in enumerate(calls) if call == ("written", "lm_head.bin"))
    rest = [(what, name if not name.startswith(".trace.json.") else "new") for what, name in calls[tensors + 1 :]]
    rest.remove(("unlink", "new"))  # if it were still there
    assert rest == [
        ("syncfs", "t"), ("sync", tmp_path.name), ("sync", "new"), ("rename", MANIFEST), ("sync", "t"), ("unlink", MARKER),
        ("sync", "t"),
    ]  # fmt: skip


@pytest.mark.contract("ERR-DURABLE-1")
def test_without_a_call_for_all_each_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_syncfs", lambda: None)
    with recorded(monkeypatch) as calls:
        monkeypatch.setattr(durable, "_syncfs", lambda: None)
        write_trace(tmp_path / "t", TENSORS)
    before = calls[: calls.index(("rename", MANIFEST))]
    synced = [name for what, name in before if what == "sync"]
    assert synced.count("attn_norm.bin") == 2
    assert {"lm_head.bin", "layer-0", "layer-1", "t", tmp_path.name} <= set(synced)


@pytest.mark.contract("ERR-DURABLE-1")
def test_a_disk_that_fails_then_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_syncfs", lambda: lambda _descriptor: durable.ctypes.set_errno(5) or -1)
    with pytest.raises(TraceError, match="t: cannot be written: Input/output error"):
        write_trace(tmp_path / "t", TENSORS)
    assert (tmp_path / "t" / MARKER).exists()
    assert not (tmp_path / "t" / MANIFEST).exists()


@pytest.mark.contract("ERR-DURABLE-1")
def test_a_page_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded(monkeypatch) as calls:
        write_text_atomically(tmp_path / "page.html", "text")
    assert [(what, name if not name.startswith(".page") else "new") for what, name in calls][:3] == [
        ("sync", "new"), ("rename", "page.html"), ("sync", tmp_path.name),
    ]  # fmt: skip


@pytest.mark.contract("ERR-DURABLE-1")
def test_an_artifact_is_on_the_disk_before_it_has_its_name(tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aprgraph.codegen.compile_model import compile_model

    with recorded(monkeypatch) as calls:
        compile_model(load_model(tiny_model()), "reference", tmp_path / "m.aprg")
    placed = calls.index(("rename", "m.aprg"))
    assert {("sync", "artifact.json"), ("sync", "graph.txt")} <= set(calls[:placed])
    assert calls[placed - 1][0] == "sync"  # the folder itself
    assert calls[placed - 1][1].startswith(".m.aprg.")
    assert calls[placed + 1] == ("sync", tmp_path.name)


#: Writes what is reported as done, and says so.
_WORK = """
import sys
import numpy as np
from pathlib import Path
from aprgraph.cli import main
sys.argv = ["aprgraph", "run", sys.argv[1], "--tokens", "1,2,3", "--taps", "all", "--layers", "0..2", "--target", "reference", "-o", sys.argv[2]]
main()
"""


@pytest.mark.contract("ERR-DURABLE-1")
def test_an_image_of_the_disk_at_the_moment_of_the_report_has_all(tiny_model: Any, tmp_path: Path) -> None:
    """What a file system has written to its disk by then is all that a power cut leaves."""
    disk, cut, place = tmp_path / "disk", tmp_path / "cut", tmp_path / "mounted"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    if shutil.which("mkfs.ext4") is None or os.geteuid() != 0:
        pytest.skip("mounting an image needs mkfs.ext4 and root")
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    if subprocess.run(["mount", "-o", "loop", disk, place], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this system mounts no images")
    try:
        (place / "not-synced").write_text("gone")
        (place / "m.gguf").write_bytes(tiny_model().read_bytes())
        result = run_python(_WORK, place / "m.gguf", place / "t", cwd=tmp_path)
        shutil.copyfile(disk, cut)
        assert (result.code, result.err) == (0, "")
    finally:
        subprocess.run(["umount", place], check=True)
    subprocess.run(["mount", "-o", "loop", cut, place], check=True)
    try:
        trace = Trace.open(place / "t")
        assert len(trace.entries) > 30
        for entry in trace.entries:
            assert trace.load(entry).shape == entry.shape
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_run_that_was_cut_off_is_none(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t")
    writer.write("x", "lm_head", None, 0, values(3))
    writer.close()
    with pytest.raises(TraceError):
        Trace.open(tmp_path / "t")

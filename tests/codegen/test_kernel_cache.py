"""Compiled kernels on disk: what shares one, what does not, damage, two processes at once, and the size."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aprgraph.codegen.cache import contents, sources
from aprgraph.codegen.cache.contents import clear_cache, list_cache, trim_cache
from aprgraph.codegen.cache.folder import size_limit
from aprgraph.codegen.cache.kernels import KernelCache, open_kernel_cache
from aprgraph.codegen.cpu import library, objects
from aprgraph.codegen.cpu.levels import CPUS
from aprgraph.codegen.cpu.library import build_library
from aprgraph.codegen.kernels import KernelRequest, requests_of
from aprgraph.codegen.trust.key import user_key
from aprgraph.graph.calling_convention import OWN_KERNELS
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.pipeline import compiled_graphs
from tests.support.cli import fails, run_cli, run_python
from tests.support.kernels import f32, request

#: Two that take no time to compile.
REQUESTS = [request("add", [f32("n", 8), f32("n", 8)]), request("mul", [f32("n", 8), f32("n", 8)])]
#: Kernels in a library of these.
ALL = len(REQUESTS) + len(OWN_KERNELS)
CPU = CPUS["x86-64-v2"]
CONTENT = b"some machine code" * 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("APRGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APRGRAPH_CACHE_SIZE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was compiled, by symbol."""
    made: list[str] = []
    compile_one = objects._compile

    def note(symbol: str, *arguments: object) -> bytes:
        made.append(symbol)
        return compile_one(symbol, *arguments)

    monkeypatch.setattr(objects, "_compile", note)
    return made


def build(path: Path, requests: list[KernelRequest] = REQUESTS, cpu: str = CPU.name) -> bytes:
    build_library({each.symbol: each for each in requests}, CPUS[cpu], path)
    return path.read_bytes()


# -- what shares a kernel -----------------------------------------------------------------------------------------------


@pytest.mark.contract("DET-CACHE-1")
def test_a_kernel_is_compiled_once_and_gives_the_same_library(
    tmp_path: Path, folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = build(tmp_path / "cold.so")
    assert sorted(compiled) == sorted([*(each.symbol for each in REQUESTS), *OWN_KERNELS])
    assert build(tmp_path / "warm.so") == cold
    assert len(compiled) == ALL
    monkeypatch.setenv("APRGRAPH_CACHE_SIZE", "0")
    assert build(tmp_path / "off.so") == cold
    assert len(compiled) == 2 * ALL
    assert len(list(folder.rglob("*.o"))) == ALL


def test_another_library_takes_what_it_has_in_common(tmp_path: Path, compiled: list[str]) -> None:
    build(tmp_path / "one.so", REQUESTS[:1])
    build(tmp_path / "both.so")
    assert sorted(compiled[:-1]) == sorted([REQUESTS[0].symbol, *OWN_KERNELS])
    assert compiled[-1] == REQUESTS[1].symbol


@pytest.mark.contract("DET-CACHE-1")
def test_kernels_that_are_compiled_at_once_have_the_bytes_of_one_at_a_time(tiny_model: Callable[..., Path]) -> None:
    """Every symbol is written by several threads, in another order each time."""
    graph = build_graph(load_model(tiny_model(format="Q8_0")))
    found = requests_of(compiled_graphs(graph, "llvm"))
    requests = {symbol: one for symbol, one in found.items() if one.op in ("linear", "rms_norm", "rope", "silu", "add")}
    alone = {symbol: next(objects.compile_kernels({symbol: request}, CPU))[1] for symbol, request in requests.items()}
    for _ in range(2):
        assert dict(objects.compile_kernels(requests, CPU)) == alone


def test_what_the_code_depends_on_parts_kernels(tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU level, TVM's version, the sources that emit kernels, and the shapes of the request."""
    build(tmp_path / "a.so")
    build(tmp_path / "b.so", cpu="x86-64-v3")
    assert len(compiled) == 2 * ALL
    with monkeypatch.context() as patch:
        patch.setattr(library, "version", lambda _: "99")
        build(tmp_path / "c.so")
    assert len(compiled) == 3 * ALL
    with monkeypatch.context() as patch:
        patch.setattr(library, "sources_digest", lambda _: "another")
        build(tmp_path / "d.so")
    assert len(compiled) == 4 * ALL
    build(tmp_path / "e.so", [request("add", [f32("n", 9), f32("n", 9)])])
    assert len(compiled) == 4 * ALL + 1


def test_the_digest_covers_every_module_that_kernels_load(tmp_path: Path) -> None:
    """The import statements are read, not run: a module that is loaded in some other way would be missed here."""
    code = """
import sys
from aprgraph.codegen.cpu.levels import CPUS
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.cpu.objects import compile_kernels
from aprgraph.graph.ir import TensorType
kind = TensorType("f32", ("n", 8))
list(compile_kernels({"add": KernelRequest("add", (kind, kind), {}, kind)}, CPUS["x86-64-v2"]))
print(*(name for name in sys.modules if name.startswith("aprgraph.")))
"""
    result = run_python(code, cwd=tmp_path)
    assert result.code == 0, result.err
    loaded = set(result.out.split())
    covered = set(sources.modules_under("aprgraph.codegen.cpu.objects"))
    assert loaded <= covered
    assert "aprgraph.codegen.kernels.cpu.linear" in covered
    assert not any(name.startswith(("aprgraph.runtime", "aprgraph.graph.export", "aprgraph.graph.families")) for name in covered)


def test_the_digest_is_of_the_content_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest_of(folder: str, text: str) -> str:
        path = tmp_path / folder / "module.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        monkeypatch.setattr(sources, "modules_under", lambda *_: {"aprgraph.module": path})
        sources.sources_digest.cache_clear()
        return sources.sources_digest("aprgraph.module")

    first = digest_of("a", "x = 1\n")
    assert digest_of("b", "x = 1\n") == first
    assert digest_of("a", "x = 2\n") != first
    sources.sources_digest.cache_clear()


# -- damage, and places that are none -----------------------------------------------------------------------------------


def test_a_damaged_kernel_is_compiled_again_and_replaced(tmp_path: Path, folder: Path, compiled: list[str]) -> None:
    cold = build(tmp_path / "cold.so")
    (path,) = folder.rglob("add_*.o")
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:1],
        whole[: len(whole) // 2],
        whole[:-1],
        bytes([whole[0] ^ 1]) + whole[1:],
        whole + b"\0",
        whole[:-1] + b"\0",
    ):
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        compiled.clear()
        assert build(tmp_path / "again.so") == cold
        assert compiled == [REQUESTS[0].symbol]
        assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, folder: Path, compiled: list[str]) -> None:
    folder.write_text("a file")
    build(tmp_path / "a.so")
    build(tmp_path / "b.so")
    assert len(compiled) == 2 * ALL
    assert folder.read_text() == "a file"


def test_a_disk_that_is_full_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KernelCache(tmp_path, user_key())

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.keep("a.o", CONTENT)
    assert list(tmp_path.iterdir()) == []
    assert cache.find("a.o") is None


def test_two_processes_at_once(tmp_path: Path, folder: Path) -> None:
    code = """
import sys
from pathlib import Path
from aprgraph.codegen.cpu.levels import CPUS
from aprgraph.codegen.cpu.library import build_library
from tests.codegen.test_kernel_cache import REQUESTS
build_library({each.symbol: each for each in REQUESTS}, CPUS["x86-64-v2"], Path(sys.argv[1]))
"""
    root = str(Path(__file__).resolve().parents[2])
    places = [tmp_path / "a.so", tmp_path / "b.so"]
    command = [sys.executable, "-c", f"import sys; sys.path.append({root!r})\n{code}"]
    running = [subprocess.Popen([*command, str(place)], cwd=tmp_path) for place in places]
    assert [process.wait() for process in running] == [0, 0]
    assert places[0].read_bytes() == places[1].read_bytes()
    assert len(list((folder / "kernels").iterdir())) == ALL
    assert build(tmp_path / "c.so") == places[0].read_bytes()


# -- the size -----------------------------------------------------------------------------------------------------------


def put(name: str, minutes_ago: float) -> Path:
    """A kernel in the cache that was last used then."""
    cache = open_kernel_cache()
    name = f"{name}.x86-64-v2.{hashlib.sha256(name.encode()).hexdigest()[:32]}.o"
    cache.keep(name, CONTENT)
    path = cache.folder / name
    used = time.time() - 60 * minutes_ago
    os.utime(path, (used, used))
    return path


def test_what_was_unused_for_longest_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, older, used_again = (put(name, minutes) for name, minutes in (("old", 30), ("older", 60), ("used_again", 90)))
    assert KernelCache(folder / "kernels", user_key()).find(used_again.name) == CONTENT
    assert trim_cache() == []
    monkeypatch.setenv("APRGRAPH_CACHE_SIZE", str(2 * old.stat().st_size))
    assert [entry.path for entry in trim_cache()] == [older]
    monkeypatch.setenv("APRGRAPH_CACHE_SIZE", "1")
    assert [entry.path for entry in trim_cache()] == [old]
    assert used_again.exists()  # a process may be about to link it


def test_a_process_trims_at_most_once_a_minute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, trimmed = [1000.0], []
    monkeypatch.setattr(contents, "_trimmed", {})
    monkeypatch.setattr(contents, "trim_cache", lambda: trimmed.append(clock[0]))
    monkeypatch.setattr(contents.time, "monotonic", lambda: clock[0])
    for moment in (1000.0, 1030.0, 1061.0, 1062.0):
        clock[0] = moment
        contents.trim_cache_when_due()
    assert trimmed == [1000.0, 1061.0]
    monkeypatch.setenv("APRGRAPH_CACHE", str(folder / "another"))
    contents.trim_cache_when_due()
    assert trimmed == [1000.0, 1061.0, 1062.0]


def test_what_a_killed_process_left_goes(folder: Path) -> None:
    put("kept", 200)
    left = [folder / "kernels/.add.o.7-8.tmp", folder / ".m.llvm.0123456789abcdef01234567.aprg.x_y1"]
    left[0].write_text("half")
    left[1].mkdir()
    (left[1] / "graph.txt").write_text("half")
    assert trim_cache() == []  # its process may be alive
    for path in left:
        os.utime(path, (0, 0))
    assert {entry.path for entry in trim_cache()} == set(left)
    assert not any(path.exists() for path in left)
    assert [entry.kind for entry in list_cache()] == ["kernel"]


@pytest.mark.parametrize(
    ("text", "size"), [("", 10**9), ("0", 0), ("123", 123), ("5K", 5000), ("500M", 500_000_000), ("2gb", 2 * 10**9), (" 1 T ", 10**12)]
)
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE_SIZE", text)
    assert size_limit() == size


@pytest.mark.parametrize("text", ["x", "-1", "1.5G", "1 X", "G", "9" * 40])
def test_what_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APRGRAPH_CACHE_SIZE", text)
    with pytest.raises(
        AprgraphError, match=r"APRGRAPH_CACHE_SIZE='.*' is no size; expected bytes, such as 500M or 2G, or 0 to keep no kernels"
    ):
        size_limit()


# -- listing and clearing -----------------------------------------------------------------------------------------------


def test_clearing_leaves_what_is_somebodys(folder: Path) -> None:
    kernel = put("add", 0)
    artifact = folder / "m.llvm.0123456789abcdef01234567.aprg"
    (artifact / "programs").mkdir(parents=True)
    (artifact / "programs/a.vm").write_text("program")
    mine = [folder / "notes.txt", folder / "kernels/notes.txt", folder / "mine.aprg/x"]
    mine[2].parent.mkdir()
    for path in mine:
        path.write_text("mine")
    assert {entry.path for entry in clear_cache()} == {kernel, artifact}
    assert {path for path in folder.rglob("*") if path.is_file()} == set(mine)
    assert list_cache() == []


def test_an_artifact_is_taken_away_before_its_files_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for it meanwhile finds none, rather than half of one."""
    place = folder / "m.llvm.0123456789abcdef01234567.aprg"
    place.mkdir(parents=True)
    seen = []
    monkeypatch.setattr(contents.shutil, "rmtree", lambda path, **_: seen.append((place.exists(), path)))
    (entry,) = list_cache()
    entry.remove()
    assert [there for there, _ in seen] == [False]


def test_the_command(folder: Path) -> None:
    import json

    put("add", 0)
    put("mul", 0)
    size = len(CONTENT) + 64
    listed = run_cli("cache")
    assert (listed.code, listed.err) == (0, "")
    lines = listed.out.splitlines()
    assert lines[0] == f"{folder}: 3.5 KB of at most 1.0 GB (APRGRAPH_CACHE_SIZE)"
    assert lines[-1].split() == ["kernels", "for", "CPUs", "2", "3.5", "KB"]
    document = json.loads(run_cli("cache", "--json").out)
    nothing = {"count": 0, "bytes": 0}
    assert document == {
        "folder": str(folder), "limit": 10**9, "bytes": 2 * size,
        "cpu_kernels": {"count": 2, "bytes": 2 * size}, "cuda_kernels": nothing, "artifacts": nothing, "remainders": nothing,
    }  # fmt: skip
    assert run_cli("cache", "clear").out == f"{folder}: removed 2 kernels for CPUs; 3.5 KB\n"
    assert not folder.exists()
    assert run_cli("cache", "clear").out == f"{folder}: nothing to remove\n"
    assert json.loads(run_cli("cache", "clear", "--json").out)["bytes"] == 0
    assert run_cli("cache").out == f"{folder}: 0 B of at most 1.0 GB (APRGRAPH_CACHE_SIZE)\n"


def test_the_command_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APRGRAPH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    for arguments in ((), ("clear",)):
        assert fails("cache", *arguments) == "nothing says where the user's cache is; set APRGRAPH_CACHE to a folder"

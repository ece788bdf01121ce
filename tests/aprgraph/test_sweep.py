"""`aprgraph sweep`: cells that are computed once, the same bytes whoever computes them, and what they have in common."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aprgraph.runtime.executors import WorkersExecutor, open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.models_here import forget_models
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
from tests.support.cli import error_of, files_under, run_cli
from tests.support.sweeps import LONG, SHORT, WorkerHere, swept, write_window_matrix

Tiny = Callable[..., Path]


@pytest.fixture
def model(tiny_model: Tiny, tmp_path: Path) -> Path:
    """A model with a window of 32 positions, in a folder of its own."""
    path = tmp_path / "win.gguf"
    path.write_bytes(tiny_model(family="gemma3", sliding_window=32).read_bytes())
    forget_models()
    return path


@pytest.mark.contract("SWEEP-SAME-1")
@pytest.mark.contract("SWEEP-SOME-1")
def test_a_fault_that_only_long_prompts_show_is_found_and_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    matrix = write_window_matrix(model, more="keep = ['lm_head']\nroom = '64 kB'")
    result = run_cli("sweep", matrix, "--workers", 2, "--html", "page", "--json")
    assert (result.code, result.err) == (1, "")
    document = json.loads(result.out)
    assert document["sentence"] == "2 of 4 comparisons diverged."
    assert document["common"][0] == (
        "Only prompts of 25 tokens and more are off (2 prompts); those of up to 24 are not: look for what begins beyond 24 positions, "
        "such as a window."
    )
    assert {cell["tokens"] for cell in document["cells"] if cell["state"] == "DIVERGED"} == {*LONG}
    assert {cell["tokens"] for cell in document["cells"] if cell["state"] == "ALIKE"} == {*SHORT}
    assert document["stages"][0]["stage"] == "attn_scores"
    first = files_under(model.parent / "matrix-store")
    assert sum(name.endswith("/lm_head.bin") and "/a/" not in name and "/b/" not in name for name in first) == 8
    assert not any(str(model.parent).encode() in data for data in first.values())

    page = (model.parent / "page" / "index.html").read_text()
    assert document["common"][0].split(";")[0] in page
    links = set(re.findall(r'href="(cell-[0-9a-f]{16}\.html)"', page))
    assert len(links) == 12
    assert all((model.parent / "page" / link).is_file() for link in links)

    # In another place, in one process, in another order: the same bytes. What is there is not computed again.
    found, done = swept(write_window_matrix(model, (*LONG, *SHORT), "keep = ['lm_head']\nroom = '64 kB'", "other"))
    assert (done.computed, done.found, found.exit_code) == (12, 0, 1)
    assert files_under(model.parent / "other-store") == first
    assert swept(matrix)[1].computed == 0
    status = run_cli("sweep", matrix, "--status")
    assert (status.code, status.err) == (1, "")
    lines = status.out.splitlines()
    assert lines[0] == "2 of 4 comparisons diverged."
    assert lines[4] == "cells: 8 RIGHT, 2 ALIKE, 2 DIVERGED"
    assert len(lines) == 11


def test_what_was_not_computed_is_said(model: Path) -> None:
    matrix = write_window_matrix(model, (5,))
    status = run_cli("sweep", matrix, "--status", "--quiet")
    assert (status.code, status.out) == (2, "Nothing is computed yet of 3 cells.\n")
    found, _ = swept(matrix)
    assert (found.exit_code, found.sentence) == (0, "Nothing is off in 3 cells.")
    more = write_window_matrix(model, (5, 6), "room = 0")  # of other cells
    assert run_cli("sweep", more, "--status", "--quiet").code == 2


def test_a_model_that_changed_since_is_not_run_and_that_is_said(model: Path) -> None:
    plan = plan_sweep(read_matrix(write_window_matrix(model, (5,))))
    forget_models()
    data = bytearray(model.read_bytes())
    data[-64:] = bytes(64)
    model.write_bytes(data)
    store = Store(plan.matrix.store)
    with WorkersExecutor(WorkerHere, 1, attempts=2) as executor:
        done = run_sweep(plan, store, executor)
    assert (done.computed, len(done.failures)) == (0, 3)
    (why,) = set(done.failures.values())
    assert re.match(r"the model win\.gguf is missing on .*: .* is another file: its fingerprint is not", why)
    found = find(plan, store, done.failures)
    assert (found.exit_code, found.counts) == (2, {"FAILED": 3})


@pytest.mark.contract("SWEEP-DEATH-1")
def test_workers_that_are_killed_lose_nothing(model: Path, tmp_path: Path) -> None:
    matrix = write_window_matrix(model, (5, 6, 7, 8))
    plan = plan_sweep(read_matrix(matrix))
    first, killed = Store(tmp_path / "first"), Store(tmp_path / "killed")
    swept(matrix, first.path)
    kills = []
    with open_executor("local", 2, threads=1, attempts=9) as executor:

        def kill(done: int, _total: int, _left: float | None) -> None:
            if len(kills) < 2:
                kills.append(done)
                os.kill(int(executor.places()[0].split()[-1]), signal.SIGKILL)
                time.sleep(0.05)

        run_sweep(plan, killed, executor, on_progress=kill)
    assert len(kills) == 2
    assert files_under(killed.path) == files_under(first.path)
    assert find(plan, killed).exit_code == 0


def test_a_version_is_beside_the_last_and_what_is_off_has_a_since(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = write_window_matrix(model, (5, 25), along=("overrides", "versions"))
    found, _ = swept(matrix)
    (off,) = found.off
    began = off.since
    assert [cell.sentence for cell in found.cells if cell.along == "versions"] == ["the store has no run of another version"] * 4

    for module in ("plan", "work"):
        monkeypatch.setattr(f"aprgraph.sweep.{module}.identity_here", lambda: ("aprgraph 9", "other sources"))
    store = read_matrix(matrix).store
    found, done = swept(matrix)
    assert done.computed == 6
    assert [cell.state for cell in found.cells if cell.along == "versions"] == ["ALIKE"] * 4
    assert found.off[0].since == began
    # What the version before had recorded, had it been another number.
    first = next(cell for cell in found.cells if cell.along == "versions")
    others = [key for key in set(Store(store).keys()) if key != first.key and Store(store).read(key)["kind"] == "run"]
    slot = Store(store).read(first.key)["slot"]
    (before,) = [key for key in others if Store(store).read(key)["slot"] == slot]
    manifest = Store(store).place(before) / "trace.json"
    document = json.loads(manifest.read_text())
    document["tensors"][3]["statistics"]["mean"] = 1.0
    manifest.write_text(json.dumps(document))
    found, _ = swept(matrix)
    (changed,) = [cell for cell in found.cells if cell.along == "versions" and cell.state == "DIVERGED"]
    assert changed.sentence.startswith("1 tensor of ")
    assert changed.key == first.key


def test_two_that_put_one_cell_leave_it_whole(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "store"), "ab" * 32
    files = {"cell.json": b"{}", "layer-0/attn_out.bin": bytes(4096)}
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(store.put, key, files) for _ in range(32)]:
            future.result()
    assert files_under(store.place(key)) == files
    assert [*store.keys()] == [key]
    leftover = store.path / "cells" / "ab" / f".{key}.0123abcd"
    leftover.mkdir()
    store.remove_leftovers()
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ['a']", r"there is no key model \(did you mean 'models'\?\); expected taps, layers"),
        ("models = ['gone.gguf']\nprompts = ['x']", r"models\[0\] is 'gone\.gguf'; expected a model; .*gone\.gguf is not there"),
        ("models = []", r"models is \[\]; expected a list of models, not empty"),
        ("models = ['win.gguf']", "there is no prompts; expected a list of them"),
        ("models = ['win.gguf']\ntargets = ['lvm']\nprompts = ['x']", r"targets\[0\] is 'lvm' \(did you mean 'llvm'\?\); expected llvm, reference"),
        ("models = ['win.gguf']\ntargets = ['cuda:x']", r"targets\[0\] is 'cuda:x' \(did you mean 'cuda'\?\); expected llvm, reference"),
        ("models = ['win.gguf']\ntargets = ['rpc:board']", r"targets\[0\]: .*'board': expected HOST:PORT or HOST:PORT/KEY"),
        ("models = ['win.gguf']\n[[prompts]]\ntxt = 'x'", r"there is no key prompts\[0\]\.txt \(did you mean 'text'\?\)"),
        ("models = ['win.gguf']\n[[prompts]]\ntext = 'x'\ntokens = [1]", r"prompts\[0\] has text and tokens; expected one of"),
        ("models = ['win.gguf']\nprompts = ['x']\n[[compare]]\nalong = 'model'", r"compare\[0\]\.along is 'model' \(did you mean 'models'\?\)"),
        ("models = ['win.gguf']\nprompts = ['x', 'y']\nroom = 'much'", r"room is 'much'; expected a number of bytes, or a text such as"),
        ("models = ['win.gguf', 'win.gguf']\nprompts = ['x']", "models has 'win' twice"),
        ("models = ['win.gguf']\nprompts = ['x']\ntaps = 'ffn_gat'", r"prompt 0 on win, as the file has it: .*ffn_gat"),
        ("models = ['win.gguf'", r"no TOML \("),
        ("models = ['win.gguf']\nprompts = ['x']\n[[overrides]]\nset = ['a']", r"overrides\[0\]\.set: .*expected KEY=TYPE:VALUE"),
    ],
)  # fmt: skip
def test_a_bad_matrix_is_refused_by_key_and_place(model: Path, text: str, message: str) -> None:
    matrix = model.with_name("bad.toml")
    matrix.write_text(text)
    error = error_of(run_cli("sweep", matrix))
    assert error.startswith(f"{matrix}: ")
    assert re.search(message, error), error
    assert not model.with_name("bad-store").exists()


def test_a_store_or_a_page_does_not_go_over_what_is_somebodys(model: Path) -> None:
    matrix = write_window_matrix(model, (5,))
    mine = model.with_name("mine")
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    assert "is there, is not empty, and is no store" in error_of(run_cli("sweep", matrix, "--store", mine))
    assert "holds no pages of a sweep" in error_of(run_cli("sweep", matrix, "--html", mine))
    assert files_under(mine).keys() == {"thesis.txt"}

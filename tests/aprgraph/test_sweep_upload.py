"""Models that a worker's machine lacks: what their runs read is sent, and a copy of pieces is never taken for the whole."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.errors import AprgraphError, ModelFileError
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.executors import WorkersExecutor
from aprgraph.runtime.executors.workers import WorkerLostError
from aprgraph.sweep import cell_files, received, uploads
from aprgraph.sweep.cells import Cell, Group, RunCell
from aprgraph.sweep.findings import Findings, find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.models_here import forget_models
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.received import received_model, received_models
from aprgraph.sweep.store import Store
from tests.support.apr_bytes import from_gguf
from tests.support.checkpoints import write_checkpoint
from tests.support.cli import files_under
from tests.support.fp8_checkpoint import fp8_checkpoint
from tests.support.gguf_copy import copy_in_parts
from tests.support.sweeps import WorkerHere, swept

Tiny = Callable[..., Path]


class Elsewhere(WorkerHere):
    """A worker on whose disk there is neither a model of the head's nor the store; ``calls`` are what it was called with."""

    place = "elsewhere"

    def __init__(self, lane: int) -> None:
        super().__init__(lane)
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def call(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        self.calls.append((function, arguments))
        if isinstance(arguments[0], Group):
            group, store, _probe, *rest = arguments
            arguments = (Group(tuple(map(_elsewhere, group.cells))), store, "", *rest)
        function, arguments, keywords = pickle.loads(pickle.dumps((function, arguments, keywords)))
        return pickle.loads(pickle.dumps(function(*arguments, **keywords)))

    @property
    def sent(self) -> int:
        """How many bytes of models it was sent."""
        return sum(len(arguments[-1]) for function, arguments in self.calls if function.__name__ == "receive")


def _elsewhere(cell: Cell) -> Cell:
    if isinstance(cell, RunCell):
        return replace(cell, model=replace(cell.model, path=f"/elsewhere{cell.model.path}"))
    return replace(cell, a=_elsewhere(cell.a), b=_elsewhere(cell.b))


@pytest.fixture(autouse=True)
def _its_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And fingerprints of few samples, for those of 256 are all of a tiny model."""
    (tmp_path / "worker").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "worker"))
    for module in ("mapped_file", "checkpoint.checkpoint"):
        monkeypatch.setattr(f"aprgraph.graph.sources.{module}.SAMPLES", 4)
    monkeypatch.setattr("aprgraph.graph.sources.mapped_file.SAMPLE_BYTES", 64)
    forget_models()
    yield
    forget_models()


def write_matrix(model: Path, upload: str = "1 GB", more: str = "") -> Path:
    """A matrix of the first layer, beside a model."""
    path = model.with_name("matrix.toml")
    path.write_text(
        f"models = ['{model.name}']\nprompts = [{{ tokens = [5, 6, 7] }}]\nlayers = '0..1'\ntaps = '*ffn_out'\nupload = '{upload}'\n{more}"
    )
    return path


def swept_elsewhere(matrix: Path, store: Path, worker: Elsewhere | None = None) -> tuple[Findings, Elsewhere]:
    """Run a matrix in one worker elsewhere; what is said of each upload is what the worker was sent."""
    plan, opened, worker = plan_sweep(read_matrix(matrix)), Store(store), worker or Elsewhere(0)
    said: list[tuple[str, int, int]] = []
    with WorkersExecutor(lambda _lane: worker, 1, attempts=1) as executor:
        done = run_sweep(plan, opened, executor, on_sent=lambda *of: said.append(of))
    assert sum(sent for _, sent, total in said if sent == total) == worker.sent or done.failures
    assert {name for name, *_ in said} <= {run.cell.model.name for run in plan.runs}
    return find(plan, opened, done.failures), worker


def gguf_file(folder: Path, tiny_model: Tiny) -> Path:
    (folder / "m.gguf").write_bytes(tiny_model(layers=4).read_bytes())
    return folder / "m.gguf"


def split_gguf(folder: Path, tiny_model: Tiny) -> Path:
    return copy_in_parts(tiny_model(layers=4), folder / "m.gguf", 12)[1]


def apr_file(folder: Path, tiny_model: Tiny) -> Path:
    (folder / "m.apr").write_bytes(from_gguf(tiny_model(layers=4)).pack())
    return folder / "m.apr"


def checkpoint(folder: Path, tiny_model: Tiny) -> Path:
    found = write_checkpoint("qwen3-f32", folder)
    (found / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (found / "README.md").write_text("read by nobody")
    (folder / "linked").symlink_to(found)  # the model is called as the folder is that it leads to
    return folder / "linked"


def checkpoint_in_shards(folder: Path, tiny_model: Tiny) -> Path:
    return fp8_checkpoint(folder)[0]


def embedding_with_modules(folder: Path, tiny_model: Tiny) -> Path:
    return write_checkpoint("gemma-embedding-f32", folder)


KINDS = (gguf_file, split_gguf, apr_file, checkpoint, checkpoint_in_shards, embedding_with_modules)


@pytest.mark.contract("SWEEP-UPLOAD-1")
@pytest.mark.parametrize("kind", KINDS)
def test_what_its_runs_read_is_sent_and_the_store_is_the_same(kind: Callable[[Path, Tiny], Path], tiny_model: Tiny, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = kind(tmp_path / "models", tiny_model)
    matrix = write_matrix(model, more="" if kind is checkpoint_in_shards else "targets = ['reference']")
    found, worker = swept_elsewhere(matrix, tmp_path / "there")
    assert found.exit_code == 0, [cell.sentence for cell in found.cells]
    assert swept(matrix, tmp_path / "here")[0].exit_code == 0
    assert files_under(tmp_path / "there") == files_under(tmp_path / "here")
    whole = sum(part.size for part in open_source(model).parts)
    assert 1000 < worker.sent < 0.7 * whole, (worker.sent, whole)
    names = {path.name for path in received_models().rglob("*")}
    if kind is checkpoint:
        assert ({"config.json", "tokenizer_config.json"} <= names, "README.md" in names) == (True, False)
    # It is there now.
    matrix.write_text(matrix.read_text().replace("5, 6, 7", "5, 6"))
    found, again = swept_elsewhere(matrix, tmp_path / "more")
    assert (found.exit_code, again.sent) == (0, 0)


@pytest.mark.contract("SWEEP-UPLOAD-2")
def test_what_nobody_knew_to_be_read_is_sent_when_it_is(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the run, which ends there, and by an audit that goes on without."""
    model = gguf_file(tmp_path, tiny_model)
    matrix, audit = write_matrix(model), cell_files.audit

    def audit_that_looks_around(trace: Any, replayed: Any) -> Any:
        found = audit(trace, replayed)
        file = replayed.model.file
        with contextlib.suppress(AprgraphError):
            file.tensor_bytes(file.tensors["blk.3.ffn_up.weight"])
            return found
        return None

    monkeypatch.setattr(uploads, "_touch", lambda *_: None)
    monkeypatch.setattr(cell_files, "audit", audit_that_looks_around)
    found, worker = swept_elsewhere(matrix, tmp_path / "there")
    assert found.exit_code == 0, [cell.sentence for cell in found.cells]
    asked = [function.__name__ for function, _ in worker.calls].count("work_on")
    assert asked > 3
    swept(matrix, tmp_path / "here")
    assert files_under(tmp_path / "there") == files_under(tmp_path / "here")


@pytest.mark.contract("SWEEP-UPLOAD-2")
def test_an_upload_that_breaks_off_leaves_no_model_and_goes_on_later(
    tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(Elsewhere):
        def call(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            if function.__name__ == "receive" and sum(one is function for one, _ in self.calls) == 3:
                raise WorkerLostError("its machine went down")
            return super().call(function, arguments, keywords)

    monkeypatch.setattr(uploads, "_AT_ONCE", 4096)
    model = gguf_file(tmp_path, tiny_model)
    matrix = write_matrix(model)
    plan = plan_sweep(read_matrix(matrix))
    fingerprint = plan.runs[0].cell.model.fingerprint
    found, first = swept_elsewhere(matrix, tmp_path / "there", Dies(0))
    assert found.cells[0].sentence == "given up after 1 attempt: its machine went down"
    assert received_model(fingerprint) is None
    found, second = swept_elsewhere(matrix, tmp_path / "there")
    assert found.exit_code == 0
    forget_models()
    assert first.sent == 3 * 4096
    third = Elsewhere(0)
    for path in received_models().rglob("*"):
        if path.name == "opens":
            path.unlink()
    swept_elsewhere(matrix, tmp_path / "again", third)
    assert (second.sent > 0, third.sent) == (True, 0)
    # Whoever finds the copy cannot take it for the model.
    copy = open_source(received_models() / fingerprint / tmp_path.name / "m.gguf")
    copy.tensor_bytes(copy.tensors["blk.0.ffn_up.weight"])
    with pytest.raises(ModelFileError, match=r"m\.gguf: bytes \d+ to \d+ are not in this copy; give the path of the whole file"):
        copy.tensor_bytes(copy.tensors["blk.3.ffn_up.weight"])


def test_what_is_not_sent_is_said_and_the_rest_is_computed(tiny_model: Tiny, tmp_path: Path) -> None:
    """Here one of two workers has the models; then none has one of them."""
    model = gguf_file(tmp_path, tiny_model)
    matrix = write_matrix(model, "1 kB", "[[compare]]\nalong = 'targets'\n")
    (why,) = {cell.sentence for cell in swept_elsewhere(matrix, tmp_path / "none")[0].cells}
    assert re.fullmatch(
        r"the model m\.gguf is missing on \S+: /elsewhere\S+ is not there; its runs read [\d.]+ KB of it, and upload is 1.0 KB", why
    ), why
    (tmp_path / "n.gguf").write_bytes(model.read_bytes()[:-4] + b"\0\0\0\0")
    matrix.write_text(matrix.read_text().replace("'m.gguf'", "'m.gguf', 'n.gguf'").replace("targets'", "models'").replace("1 kB", "0"))
    workers = [WorkerHere(0), Elsewhere(1)]
    plan, store = plan_sweep(read_matrix(matrix)), Store(tmp_path / "both")
    with WorkersExecutor(lambda lane: workers[1 - lane], 2) as executor:
        assert run_sweep(plan, store, executor).failures == {}
    assert find(plan, store).counts.keys() <= {"RIGHT", "ALIKE", "DIVERGED"}


def test_a_model_that_changed_while_it_was_sent_is_not_taken(tiny_model: Tiny, tmp_path: Path) -> None:
    model = gguf_file(tmp_path, tiny_model)

    class Changes(Elsewhere):
        def call(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            if function.__name__ == "begin_receiving":
                data = bytearray(model.read_bytes())
                data[-64:] = bytes(64)
                model.write_bytes(data)
            return super().call(function, arguments, keywords)

    found, _ = swept_elsewhere(write_matrix(model), tmp_path / "there", Changes(0))
    assert "is another file: its fingerprint is not" in found.cells[0].sentence
    assert json.loads((tmp_path / "there" / "store.json").read_text())
    assert not [*Store(tmp_path / "there").keys()]


@pytest.mark.contract("SWEEP-UPLOAD-3")
def test_models_that_nobody_asks_for_go_when_another_comes(tmp_path: Path) -> None:
    def send(fingerprint: str) -> None:
        received.begin_receiving(fingerprint, "models", {"models/m.gguf": 100})
        received.receive(fingerprint, "models/m.gguf", 10, b"bytes")
        received.end_receiving(fingerprint, "models/m.gguf")

    def asked_for(fingerprint: str, days: int) -> None:
        folder = received_models() / fingerprint
        for path in (folder / "opens", folder):
            os.utime(path, (time.time() - days * 86400,) * 2)

    ages = {"old": 31, "used": 31, "recent": 29}
    for name in ages:
        send(name)
    for name, days in ages.items():
        asked_for(name, days)
    assert received_model("used") == received_models() / "used/models/m.gguf"
    (received_models() / "begun").mkdir()
    send("new")
    assert {path.name for path in received_models().iterdir()} == {"used", "recent", "begun", "new"}
    assert received_model("old") is None

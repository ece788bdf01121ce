"""Workers that are jobs, by submitit's local executor: they keep what they loaded, and one that dies is seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from aprgraph.graph.errors import ExecutorError, PlanError
from aprgraph.runtime.executors import open_executor

pytest.importorskip("submitit", reason="submitit is optional: aprgraph[slurm]; .ci/run installs it")


def _die_once(flag: str) -> int:
    path = Path(flag)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _refuse() -> None:
    raise PlanError("no such stage")


def test_jobs_serve_calls_until_they_are_done_with_and_a_dead_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))  # where a job finds the functions of this file
    notices: list[str] = []
    with open_executor("submitit-local", 1, on_notice=notices.append) as executor:
        first = executor.submit(os.getpid).result()
        assert executor.submit(os.getpid).result() == first != os.getpid()
        with pytest.raises(PlanError, match="no such stage"):
            executor.submit(_refuse).result()
        assert executor.submit(_die_once, str(tmp_path / "died")).result() != first
        (place,) = executor.places()
        assert "job " in place
    assert len(notices) == 1
    assert " ended in the middle of its work (" in notices[0]
    assert [path.name for path in tmp_path.iterdir()] == ["died"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("slurm:partitoin=x", r"there is no 'partitoin' \(did you mean 'partition'\?\); expected partition, account, "),
        ("slurm:partition", "there is no 'partition'.*; expected partition, account, .*, each with =VALUE"),
        ("slurm:time=soon", "time is 'soon', expected a whole number"),
        ("slurm:partition=x", "^no jobs can be started: "),
    ],
)
def test_words_that_slurm_cannot_be_asked_for(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    with pytest.raises(ExecutorError, match=message):
        open_executor(words)
    assert [*tmp_path.iterdir()] == []

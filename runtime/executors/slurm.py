"""Workers that are jobs of Slurm, by submitit: a job serves calls until the work or its time ends, so that models stay open in it.

The files of jobs and calls lie in a folder of the current one, which the machines of a cluster see, and which is gone at the end.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ExecutorError, shown
from aprgraph.graph.near_names import did_you_mean_one_of
from aprgraph.graph.temporary_files import forget, note, remove
from aprgraph.runtime.executors.file_calls import looks, read_pickle, send, serve
from aprgraph.runtime.executors.workers import ATTEMPTS, OnNotice, WorkerLostError, WorkersExecutor

#: What stands behind ``slurm:``, as submitit calls it.
_PARAMETERS = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
    "time": "timeout_min",
    "mem": "slurm_mem",
    "gpus": "slurm_gpus_per_node",
}
_NUMBERS = ("time", "gpus")
#: Seconds between two questions whether a job is there still, and between two signs that the head is.
_ASK, _SIGN = 5.0, 30.0
_USUAL_WORKERS = 4
_USUAL_MINUTES = 24 * 60


class Jobs:
    """The jobs of one executor: how they are started, and where their files lie."""

    def __init__(self, cluster: str, parameters: Mapping[str, Any], threads: int) -> None:
        try:
            import submitit  # noqa: PLC0415 -- an extra
        except ModuleNotFoundError:
            raise ExecutorError("the executor slurm needs submitit, which is not installed; pip install 'aprgraph[slurm]'") from None
        self.threads, self.ask = threads, _ASK if cluster == "slurm" else 0.2
        self._lock = threading.Lock()
        self._count = 0
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=".aprgraph-jobs-", dir=Path.cwd()))
            note(str(self.folder))
            self._executor = submitit.AutoExecutor(folder=self.folder / "submitit", cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": _USUAL_MINUTES, "cpus_per_task": threads, **parameters})
        except Exception as error:  # noqa: BLE001 -- submitit raises RuntimeError, NameError and others for what it does not take
            self.close()
            raise ExecutorError(f"no jobs can be started: {str(error).strip().splitlines()[0]}; see `sinfo` and `srun`") from None

    def start(self) -> tuple[Path, Any]:
        """(the folder, the job) of a new worker. Raises WorkerLostError."""
        with self._lock:
            folder = self.folder / str(self._count)
            self._count += 1
            folder.mkdir(mode=0o700)
            (folder / "head").touch()
            try:
                return folder, self._executor.submit(serve, str(folder), self.threads)
            except Exception as error:  # noqa: BLE001 -- as above
                raise WorkerLostError(f"no job can be started: {error}") from None

    def close(self) -> None:
        """Remove the folder."""
        if hasattr(self, "folder"):
            remove(str(self.folder))
            forget(str(self.folder))


class JobWorker:
    """A job as a worker."""

    def __init__(self, jobs: Jobs) -> None:
        self._folder, self._job = jobs.start()
        self._jobs, self._number, self._asked, self._signed = jobs, 0, 0.0, time.monotonic()
        self.place = f"job {self._job.job_id}"
        self._wait_for(self._folder / "ready")  # it may stand in a queue for hours
        self.place = f"{(self._folder / 'ready').read_text()}, job {self._job.job_id}"

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """See ``Worker.call``."""
        outcome = send(self._folder, self._number, function, arguments, keywords)
        self._number += 1
        self._wait_for(outcome)
        is_well, found = read_pickle(outcome)
        if not is_well:
            raise found
        return found

    def close(self) -> None:
        """See ``Worker.close``."""
        with contextlib.suppress(OSError):
            (self._folder / "stop").touch()
        until = time.monotonic() + _ASK
        for _ in looks():
            if self._is_over() or time.monotonic() > until:
                break
        self.kill()

    def kill(self) -> None:
        """See ``Worker.kill``."""
        with contextlib.suppress(Exception):
            self._job.cancel()

    def _wait_for(self, path: Path) -> None:
        for _ in looks():
            if path.exists():
                return
            now = time.monotonic()
            if now - self._signed > _SIGN:
                self._signed = now
                (self._folder / "head").touch()
            if now - self._asked > self._jobs.ask:
                self._asked = now
                if self._is_over() and not path.exists():
                    raise WorkerLostError(f"{self.place} ended in the middle of its work ({self._state()})")

    def _is_over(self) -> bool:
        with contextlib.suppress(Exception):
            return bool(self._job.done())
        return False

    def _state(self) -> str:
        with contextlib.suppress(Exception):
            return str(self._job.state)
        return "state not known"


def open_slurm(
    words: str,
    workers: int | None = None,
    *,
    threads: int | None = None,
    attempts: int = ATTEMPTS,
    on_notice: OnNotice | None = None,
) -> WorkersExecutor:
    """An executor of ``workers`` jobs (default: 4) of ``threads`` processors (default: 1).

    ``words`` is ``slurm``, ``slurm:partition=NAME,time=MINUTES`` and more, or ``submitit-local``: jobs that are processes here. Raises
    ExecutorError.
    """
    kind, _, rest = words.partition(":")
    share = threads or 1
    jobs = Jobs("local" if kind == "submitit-local" else "slurm", _parameters(words, rest), share)
    return WorkersExecutor(
        lambda _lane: JobWorker(jobs),
        workers or _USUAL_WORKERS,
        attempts=attempts,
        on_notice=on_notice,
        on_close=jobs.close,
        one_machine=kind == "submitit-local",
    )


def _parameters(words: str, rest: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        name, equals, value = item.partition("=")
        if name not in _PARAMETERS or not equals or not value:
            meant = did_you_mean_one_of(name, _PARAMETERS)
            raise ExecutorError(
                f"executor {shown(words)}: there is no {shown(name)}{meant}; expected {', '.join(_PARAMETERS)}, each with =VALUE"
            )
        if name in _NUMBERS and not (value.isascii() and value.isdigit()):
            raise ExecutorError(f"executor {shown(words)}: {name} is {shown(value)}, expected a whole number")
        found[_PARAMETERS[name]] = int(value) if name in _NUMBERS else value
    return found

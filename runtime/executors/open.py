"""Executors by the words that the command line takes."""

from __future__ import annotations

from aprgraph.graph.errors import ExecutorError, shown
from aprgraph.graph.near_names import did_you_mean_one_of
from aprgraph.runtime.executors.local import open_local
from aprgraph.runtime.executors.workers import ATTEMPTS, OnNotice, WorkersExecutor

#: The forms of the words, for help and messages.
FORMS = "local, ray, ray://HOST:PORT, slurm:partition=NAME[,…] or submitit-local"
_KINDS = ("local", "ray", "slurm", "submitit-local")


def open_executor(
    words: str = "local",
    workers: int | None = None,
    *,
    threads: int | None = None,
    attempts: int = ATTEMPTS,
    on_notice: OnNotice | None = None,
) -> WorkersExecutor:
    """The executor that ``words`` name, with ``workers`` workers of ``threads`` threads (default: what the machines have).

    ``on_notice`` is told of calls that are begun again. Raises ExecutorError.
    """
    kind = words.partition(":")[0]
    if words == "local":
        return open_local(workers, threads=threads, attempts=attempts, on_notice=on_notice)
    if words == "ray" or words.startswith("ray://"):
        from aprgraph.runtime.executors.ray_cluster import open_ray  # noqa: PLC0415 -- few have it

        return open_ray(None if words == kind else words, workers, threads=threads, attempts=attempts, on_notice=on_notice)
    if kind == "slurm" or words == "submitit-local":
        from aprgraph.runtime.executors.slurm import open_slurm  # noqa: PLC0415 -- as above

        return open_slurm(words, workers, threads=threads, attempts=attempts, on_notice=on_notice)
    raise ExecutorError(f"no executor {shown(words)}{did_you_mean_one_of(kind, _KINDS)}; expected {FORMS}")

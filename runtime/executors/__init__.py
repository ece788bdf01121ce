"""Calls that run in other processes: on this machine, in a Ray cluster, or in jobs of Slurm.

Each is a ``concurrent.futures.Executor``, whose futures end though workers die: see ``workers``. ``open_executor`` makes one of the
words that the command line takes.
"""

from aprgraph.runtime.executors.open import open_executor
from aprgraph.runtime.executors.workers import WorkersExecutor

__all__ = ["WorkersExecutor", "open_executor"]

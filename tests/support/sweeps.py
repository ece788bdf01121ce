"""Sweeps of tiny models: a matrix, and workers in this process, so that tests start none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aprgraph.runtime.executors import WorkersExecutor
from aprgraph.sweep.findings import Findings, find
from aprgraph.sweep.head import Swept, run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store

#: Prompts of the matrix below that are beyond its second window, and those that are not.
LONG, SHORT = (25, 34), (5, 24)


class WorkerHere:
    """A worker that is this process."""

    place = "here"

    def __init__(self, _lane: int) -> None:
        pass

    def call(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        return function(*arguments, **keywords)

    def close(self) -> None:
        pass

    kill = close


def write_window_matrix(
    model: Path, lengths: Sequence[int] = (*SHORT, *LONG), more: str = "", name: str = "matrix", along: Sequence[str] = ("overrides",)
) -> Path:
    """A matrix beside a model of the family gemma3: as the file has it, and with a window of 24 positions."""
    prompts = "".join(f"[[prompts]]\ntokens = {[number % 7 + 1 for number in range(length)]}\n" for length in lengths)
    path = model.with_name(f"{name}.toml")
    path.write_text(
        f"{more}\nmodels = ['{model.name}']\n{prompts}"
        "[[overrides]]\nname = 'right'\n[[overrides]]\nname = 'window of 24'\nset = ['gemma3.attention.sliding_window=int:24']\n"
        + "".join(f"[[compare]]\nalong = '{axis}'\n" for axis in along)
    )
    return path


def swept(matrix: Path, store: Path | None = None) -> tuple[Findings, Swept]:
    """Run a matrix in this process."""
    plan = plan_sweep(read_matrix(matrix))
    opened = Store(store or plan.matrix.store)
    with WorkersExecutor(WorkerHere, 1) as executor:
        done = run_sweep(plan, opened, executor)
    return find(plan, opened, done.failures), done
